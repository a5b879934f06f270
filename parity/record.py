"""How a result is written: strict JSON, a line for each small value, so that files stay small."""

import json
from collections.abc import Mapping
from typing import Any

from parity.metrics import strict

WIDTH = 240  # letters: one tensor's measurements with the longest names fit


def json_text(result: Any) -> str:
    """The result as strict JSON that ends with a newline; what fits on a line stands on one.

    Numbers that JSON cannot hold are written as `parity.metrics.strict` does.
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
