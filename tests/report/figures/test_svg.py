from xml.etree import ElementTree as ET

from qfair_check.report.figures.svg import inlined

SVG = """<?xml version="1.0" encoding="utf-8" standalone="no"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="720pt" height="50pt" viewBox="0 0 720 50"
  xmlns="http://www.w3.org/2000/svg" version="1.1">
 <metadata>made today</metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style></defs>
 <g id="figure_1">
  <g id="empty"/>
  <defs><path id="m1a" d="M 0 3.123456 L -3.000001 -3
z" style="stroke: #0072b2"/></defs>
  <use xlink:href="#m1a" x="12.345678" y="9" style="fill: #000000; stroke: #0072b2; stroke-width: 0.8"/>
  <text style="font: 700 11px 'DejaVu Sans', sans-serif; text-anchor: end" x="1.000000" y="2"
    transform="rotate(-0 1 2)">a &lt;b&gt; &amp; $c$</text>
  <path clip-path="url(#p1)" d="M 1 2" style="fill: none; opacity: 0.5"/>
 </g>
 <defs><clipPath id="p1"><rect x="0" y="0" width="1" height="1"/></clipPath></defs>
</svg>"""


def test_it_becomes_an_element_without_styles():
    assert inlined(SVG, "loss") == (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 50" width="100%" fill="currentColor" '
        'font-family="system-ui, sans-serif" stroke-linejoin="round"><g>'
        '<defs><path id="loss-m1a" d="M 0 3.12 L -3 -3 z" stroke="var(--s1, #0072b2)" /></defs>'
        '<use href="#loss-m1a" x="12.35" y="9" fill="currentColor" stroke="var(--s1, #0072b2)" stroke-width="0.8" />'
        '<text font-size="11" font-weight="700" text-anchor="end" x="1" y="2">a &lt;b&gt; &amp; $c$</text>'
        '<path d="M 1 2" fill="none" opacity="0.5" /></g></svg>'
    )


def test_it_is_well_formed():
    assert ET.fromstring(inlined(SVG, "x")).tag == "{http://www.w3.org/2000/svg}svg"


def test_the_other_way_to_write_a_font():
    svg = SVG.replace("font: 700 11px 'DejaVu Sans', sans-serif", "font-weight: 700; font-size: 11px; font-family: 'A'")
    assert '<text font-weight="700" font-size="11" text-anchor="end"' in inlined(svg, "x")
