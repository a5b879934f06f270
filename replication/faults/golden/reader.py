"""Reads golden numbers of this package, wherever it is installed."""

import functools
import importlib.resources
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

Arrays = Mapping[str, np.ndarray]
HERE = importlib.resources.files(__package__)


@functools.cache
def load(name: str) -> tuple[Arrays, dict[str, Any]]:
    """The arrays (read-only) and texts of `<name>.npz` in this package."""
    return read(HERE / f"{name}.npz")


def read(file: "Traversable") -> tuple[Arrays, dict[str, Any]]:
    """All arrays of a golden file, read-only, and its texts, parsed.

    The second value is `meta` where the file has one, with every other text under its own key
    (`panoptic_low_0_info`, `grad_names`, `info`, ...).
    """
    arrays: dict[str, np.ndarray] = {}
    texts: dict[str, Any] = {}
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        for key in stored.files:
            value = stored[key]
            if value.dtype.kind == "U":
                texts[key] = json.loads(str(value))
            else:
                value.setflags(write=False)
                arrays[key] = value
    return arrays, {**texts.pop("meta", {}), **texts}


def read_json(name: str) -> Any:
    """The content of a JSON file in this package."""
    return json.loads((HERE / name).read_text(encoding="utf-8"))
