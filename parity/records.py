"""How a result is written: strict JSON, a line for each small value, so that files stay small."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.files import replacing

WIDTH = 240  # letters: one tensor's measurements with the longest names fit


def json_text(result: Any) -> str:
    """The result as strict JSON that ends with a newline; what fits on a line stands on one.

    Numbers that JSON cannot hold are written as `parity.records.strict` does.
    """
    return _text(strict(result), "") + "\n"


def _text(value: Any, indent: str) -> str:
    flat = json.dumps(value, allow_nan=False)
    if len(flat) <= WIDTH or not isinstance(value, Mapping | list):
        return flat
    inner = indent + " "
    if isinstance(value, Mapping):
        lines = [f"{json.dumps(str(key))}: {_text(one, inner)}" for key, one in value.items()]
        start, end = "{}"
    else:
        lines = [_text(one, inner) for one in value]
        start, end = "[]"
    return f"{start}\n{inner}" + f",\n{inner}".join(lines) + f"\n{indent}{end}"


def strict(value: Any) -> Any:
    """`value` without numbers that JSON cannot hold: infinite and NaN ones become strings."""
    if isinstance(value, Mapping):
        return {str(key): strict(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [strict(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def number(value: Any) -> float:
    """A float from strict JSON, where infinite and NaN numbers are strings."""
    return float(value)


def write_json(result: Mapping[str, Any], folder: Path, name: str = "audit.json") -> Path:
    """Writes `result` to `folder`/`name`, whole or not at all; returns the path."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / name) as temporary:
        temporary.write_text(json_text(result), encoding="utf-8")
    return folder / name
