"""Casts that are kept from leaving float64 while a float64 run lasts, and where they were made."""

import linecache
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENGINE = f"{Path(__file__).parents[2]}{os.sep}"
FRAMEWORKS = tuple(
    f"{os.sep}{name}{os.sep}"
    for name in ("torch", "tensorflow", "tf_keras", "keras", "jax", "jaxlib", "numpy")
)
PYTHON = f"{Path(os.__file__).parent}{os.sep}"
Found = dict[tuple[str, str], int]
_noted: list[Found] = []


@contextmanager
def noting() -> Iterator[Found]:
    """Gives a dictionary that gets each interception inside: (line of source, what) to times."""
    found: Found = {}
    _noted.append(found)
    try:
        yield found
    finally:
        _noted.remove(found)


def note(what: str) -> None:
    """An interception was made, for the innermost line of code that is of no framework."""
    if _noted:
        key = (_line(), what)
        for found in _noted:
            found[key] = found.get(key, 0) + 1


def _line() -> str:
    """`file:line: text` of the user's code that runs now; that of a framework where there is none.

    What is built into Python, and the engine, are passed over.
    """
    frame, first = sys._getframe(2), ""
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((ENGINE, "<")):
            text = linecache.getline(name, frame.f_lineno).strip()
            shown = f"{Path(name).name}:{frame.f_lineno}: `{text}`"
            first = first or shown
            packaged = "-packages" in name
            framework = packaged and any(part in name for part in FRAMEWORKS)
            if not framework and (packaged or not name.startswith(PYTHON)):
                return shown
        frame = frame.f_back
    return first
