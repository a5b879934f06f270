"""Recorded text on a page or in Markdown: names of tensors and files may come from strangers.

No control character, no sign that turns the direction of writing, no markup and no line of its own
gets from a name into what is written.
"""

import re
from typing import Any

from markupsafe import Markup, escape

from parity.errors import printable

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_CODE = re.compile("`([^`]+)`")


def in_html(value: Any) -> Any:
    """A value as a template puts it into a page: escaped, what stands in backticks as code."""
    if isinstance(value, Markup):
        return Markup(_CONTROL.sub("", value))
    if not isinstance(value, str):
        return value
    text = _CODE.sub(r"<code>\1</code>", str(escape(_line(value))))
    return Markup(text.replace("`", "&#39;"))


def in_attribute(text: Any) -> Markup:
    """Text as the value of an attribute between quotation marks, without elements in it."""
    return escape(_line(str(text)).replace("`", ""))


def in_markdown(text: Any) -> str:
    """Text that Markdown shows as it is, on one line, inside a table cell or elsewhere."""
    line = _line(str(text))
    for mark in ("\\", "|", "`", "*", "_", "[", "]", "~"):
        line = line.replace(mark, f"\\{mark}")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def in_prose(text: Any) -> str:
    """Text of this program for Markdown, in which backticks mark code."""
    parts = _line(str(text)).split("`")
    if len(parts) % 2 == 0:
        return in_markdown(text)
    return "".join(
        in_code(part) if index % 2 else in_markdown(f"|{part}|")[2:-2]
        for index, part in enumerate(parts)
        if part
    )


def in_code(text: Any) -> str:
    """Text as a code span that cannot end early, also inside a table cell."""
    return f"`{_line(str(text)).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _line(text: str) -> str:
    return printable(" ".join(text.split()), None)
