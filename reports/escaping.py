"""Recorded text on a page or in Markdown: names of tensors and files may come from strangers.

No control character, no sign that turns the direction of writing, no markup and no line of its own
gets from a name into what is written.
"""

import re
from typing import Any

from markupsafe import Markup

from parity.errors import printable

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def in_html(value: Any) -> Any:
    """A value as a template puts it into a page, which escapes markup after this."""
    if isinstance(value, Markup):
        return Markup(_CONTROL.sub("", value))
    return _line(value) if isinstance(value, str) else value


def in_markdown(text: Any) -> str:
    """Text that Markdown shows as it is, on one line, inside a table cell or elsewhere."""
    line = _line(str(text))
    for mark in ("\\", "|", "`", "*", "_", "[", "]", "~"):
        line = line.replace(mark, f"\\{mark}")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def in_code(text: Any) -> str:
    """Text as a code span that cannot end early, also inside a table cell."""
    return f"`{_line(str(text)).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _line(text: str) -> str:
    return printable(" ".join(text.split()), None)
