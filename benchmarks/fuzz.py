"""Damaged and forged files against every loader: each is read, or refused by one QFairError.

A seed is a small file that is read. An input is a seed with some of its bytes flipped, cut, spliced with another seed
or overwritten by numbers that headers hold; of files of JSON, or with a JSON header, also the values themselves. With
`--atheris`, which `pip install atheris` brings, its engine makes inputs of the same seeds, guided by coverage. Every
input runs under a limit of seconds, and all under a limit of address space. Anything that comes out but a QFairError is
printed, and the exit code is 1.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from fuzz_seeds import LOADERS, Loader, seeds_of

from qfair_check.errors import QFairError

_NUMBERS = (0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, 2**63, 2**70, "", "\0", "../x", "é" * 300, [], {}, [[]], {"": 0}, "9" * 400,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Crash:
    """What came out of a loader, and the input that caused it."""

    loader: str
    error: str
    content: bytes
    trace: str


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200_000, help="of all loaders together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(LOADERS), help="one loader")
    parser.add_argument("--gigabytes", type=float, default=12, help="of address space")
    parser.add_argument("--seconds", type=int, default=20, help="for one input")
    parser.add_argument("--keep", type=Path, help="a folder for inputs that crash")
    parser.add_argument("--atheris", action="store_true", help="let atheris make the inputs; needs --only")
    options = parser.parse_args()
    size = int(options.gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    names = [options.only] if options.only else sorted(LOADERS)
    started = time.perf_counter()
    if options.atheris:
        if not options.only:
            parser.error("--atheris makes inputs for one loader: name it by --only")
        with_atheris(LOADERS[options.only], options, started)
    crashes: dict[str, Crash] = {}
    counts: dict[str, dict[str, int]] = {}
    for name in names:
        counts[name], found = attempt(LOADERS[name], options.inputs // len(names), options)
        crashes |= found
    raise SystemExit(told(counts, crashes, options, started))


def told(
    counts: dict[str, dict[str, int]], crashes: dict[str, Crash], options: argparse.Namespace, started: float
) -> int:
    """Print what was found, keep inputs that crash, and return the exit code."""
    for crash in crashes.values():
        print(f"{crash.loader}: {crash.error}\n{crash.trace}", file=sys.stderr)
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256(crash.content).hexdigest()[:12]
            (options.keep / f"{crash.loader}-{digest}").write_bytes(crash.content)
    print(
        json.dumps(
            {
                "benchmark": "fuzz",
                "inputs": sum(each["inputs"] for each in counts.values()),
                "crashes": len(crashes),
                "seconds": round(time.perf_counter() - started, 1),
                "loaders": counts,
                "seed": options.seed,
            }
        ),
        flush=True,
    )
    return 1 if crashes else 0


def attempt(loader: Loader, inputs: int, options: argparse.Namespace) -> tuple[dict[str, int], dict[str, Crash]]:
    """Try so many inputs on one loader."""
    chance = random.Random(f"{options.seed} {loader.name}")
    counts, crashes = {"inputs": 0, "read": 0, "refused": 0}, {}
    with tempfile.TemporaryDirectory() as folder:
        seeds = seeds_of(loader, Path(folder))
        for content in mutants(seeds, loader, chance, inputs):
            count(tried(loader, content, Path(folder), options.seconds), counts, crashes)
    return counts, crashes


def count(outcome: str | Crash, counts: dict[str, int], crashes: dict[str, Crash]) -> None:
    """Count an outcome; crashes at one place are kept once."""
    counts["inputs"] += 1
    if isinstance(outcome, Crash):
        crashes.setdefault(outcome.trace, outcome)
    else:
        counts[outcome] += 1


def tried(loader: Loader, content: bytes, folder: Path, seconds: int) -> str | Crash:
    """Read one input; "read", "refused", or what else came out."""
    path = folder / loader.file
    path.write_bytes(content)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(seconds)
    try:
        loader.read(path)
    except QFairError:
        return "refused"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        trace = "".join(f"  {Path(frame.filename).name}:{frame.lineno} {frame.name}\n" for frame in frames)
        return Crash(loader.name, f"{type(error).__name__}: {error}"[:300], content, trace)
    finally:
        signal.alarm(0)
    return "read"


def mutants(seeds: list[bytes], loader: Loader, chance: random.Random, inputs: int) -> Iterator[bytes]:
    """Yield damaged and forged files."""
    ways: list[Callable[[bytes, random.Random], bytes]] = [_flipped, _cut, _numbered, _repeated]
    for index in range(inputs):
        content = chance.choice(seeds)
        if loader.forge and index % 2:
            with contextlib.suppress(ValueError, KeyError, RecursionError):
                content = loader.forge(content, lambda value: _forged(value, chance))
        if index % 4 != 1:
            for _ in range(chance.choice((1, 1, 1, 2, 4))):
                content = chance.choice(ways)(content, chance)
        if chance.random() < 0.05:
            other = chance.choice(seeds)
            content = content[: chance.randrange(len(content) + 1)] + other[chance.randrange(len(other) + 1) :]
        yield content


def with_atheris(loader: Loader, options: argparse.Namespace, started: float) -> None:
    """Let atheris make the inputs, guided by coverage, and end the process, for its engine never returns."""
    import atheris

    counts, crashes = {"inputs": 0, "read": 0, "refused": 0}, {}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as corpus:
        for index, seed in enumerate(seeds_of(loader, Path(folder))):
            Path(corpus, str(index)).write_bytes(seed)

        def one(content: bytes) -> None:
            count(tried(loader, content, Path(folder), options.seconds), counts, crashes)
            if counts["inputs"] >= options.inputs:
                code = told({loader.name: counts}, crashes, options, started)
                shutil.rmtree(folder)
                shutil.rmtree(corpus)
                os._exit(code)

        _instrument(atheris.instrument_func)
        atheris.Setup([sys.argv[0], corpus, "-max_len=65536", f"-seed={options.seed + 1}", "-verbosity=0"], one)
        atheris.Fuzz()


def _instrument(instrument: Callable[[Any], Any]) -> None:
    """Let the engine see which lines of this package run; all of torch would take it minutes."""
    for name, module in list(sys.modules.items()):
        if name.startswith("qfair_check"):
            for value in list(vars(module).values()):
                if isinstance(value, FunctionType) and value.__module__ == name:
                    instrument(value)


class _TooLongError(Exception):
    """An input took too long."""


def _too_long(*_: object) -> None:
    raise _TooLongError("it took too long")


def _flipped(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(content: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[end:] if chance.random() < 0.5 else content[:end]


def _numbered(content: bytes, chance: random.Random) -> bytes:
    width = chance.choice((1, 2, 4, 8))
    number = (chance.choice(_NUMBERS) % 256**width).to_bytes(width, chance.choice(("little", "big")))
    place = chance.randrange(len(content) + 1)
    return content[:place] + number + content[place + width :]


def _repeated(content: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:end] * chance.choice((1, 2, 20)) + content[end:]


def _forged(value: Any, chance: random.Random) -> Any:
    """Return a JSON value with another one somewhere in it, or without a part."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        changed = dict(value)
        what = chance.random()
        if what < 0.1:
            del changed[key]
        elif what < 0.2:
            changed[str(chance.choice(_VALUES))] = changed.pop(key)
        else:
            changed[key] = _forged(value[key], chance)
        return changed
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        what = chance.random()
        if what < 0.1:
            return value[:place] + value[place + 1 :]
        if what < 0.2:
            return value[:place] * 2 + value[place:]
        return [*value[:place], _forged(value[place], chance), *value[place + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and chance.random() < 0.5:
        return value + chance.choice((-1, 1, 0.5, 1000, -(2**33)))
    return chance.choice(_VALUES)


if __name__ == "__main__":
    main()
