"""Matplotlib's SVG as an element for HTML: no styles, no ids that clash, colours that follow the page."""

import re
from xml.etree import ElementTree as ET

from qfair_check.report.figures.palette import COLOURS, INK

_NAMESPACE = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_DROPPED = {"metadata", "title", "style", "clipPath"}
_NUMBER = re.compile(r"-?\d*\.\d{3,}")
_FONT = re.compile(r"(?:(bold|\d{3})\s+)?([\d.]+)px")
_ROUNDED = ("d", "x", "y", "transform")
_FROM_PAGE = {INK: "currentColor"} | {colour.light: f"var({colour.variable}, {colour.light})" for colour in COLOURS}


def inlined(svg: str, prefix: str) -> str:
    """Return the document of matplotlib's SVG backend as an ``<svg>`` element to be put into HTML as it is.

    Style attributes become presentation attributes, which a strict content security policy allows; black becomes
    ``currentColor`` and the colours of the palette become CSS variables. Nothing is clipped.

    Parameters
    ----------
    svg : str
        Text must have been kept as text.
    prefix : str
        What its ids begin with.
    """
    root = ET.fromstring(svg)
    _prune(root)
    referred = {element.attrib[_HREF][1:] for element in root.iter() if _HREF in element.attrib}
    names = {old: f"{prefix}-{old}" for old in referred}  # matplotlib's hash of what it names
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        _rewrite(element, names)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib |= {
        "xmlns": _NAMESPACE,
        "viewBox": box,
        "width": "100%",
        "fill": "currentColor",
        "font-family": "system-ui, sans-serif",
        "stroke-linejoin": "round",
    }
    return ET.tostring(root, encoding="unicode")


def _prune(element: ET.Element) -> None:
    for child in list(element):
        _prune(child)
        name = child.tag.rpartition("}")[2]
        if name in _DROPPED or (name in ("defs", "g") and not len(child)):
            element.remove(child)
        child.tail = None
    if element.tag.rpartition("}")[2] not in ("text", "tspan"):
        element.text = None


def _rewrite(element: ET.Element, names: dict[str, str]) -> None:
    held = dict(element.attrib)
    element.attrib.clear()
    for name, value in held.items():
        if name == "style":
            element.attrib.update(_presentation(value))
        elif name == "id":
            if value in names:
                element.set("id", names[value])
        elif name == _HREF:
            element.set("href", f"#{names[value[1:]]}")
        elif name == "transform" and value.startswith("rotate(-0 "):
            continue
        elif name != "clip-path":
            element.set(name, _NUMBER.sub(_shorter, value) if name in _ROUNDED else value)
    if "d" in element.attrib:
        element.set("d", " ".join(element.attrib["d"].split()))


def _presentation(style: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in style.split(";"):
        name, _, value = (text.strip() for text in part.partition(":"))
        if name == "font":
            match = _FONT.search(value)
            assert match, value
            found |= {"font-size": match[2]} | ({"font-weight": match[1]} if match[1] else {})
        elif name == "font-size":
            found[name] = value.removesuffix("px")
        elif name and name not in ("font-family", "stroke-linejoin"):
            found[name] = _FROM_PAGE.get(value, value)
    return found


def _shorter(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
