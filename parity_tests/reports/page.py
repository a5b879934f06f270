"""Reads the files of a report as a test asks about them."""

import re
from html.parser import HTMLParser
from typing import Any

from reports.ladder import BESIDE, RUNGS

LADDER_ROWS = len(RUNGS) + len(BESIDE) + 2  # of Markdown's two tables; the page has lists
VOID = {"meta", "link", "input", "br", "img", "hr"}
HOSTILE = "<script>alert(1)</script> | `x` \"'&\n[link](javascript:alert(2))"


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.elements, self.attributes, self.tables = [], [], [], []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def hostile(value: Any) -> Any:
    """The same structure with every free text replaced by a hostile one."""
    if isinstance(value, dict):
        fixed = ("schema", "verdict", "rule", "claim")  # what is no free text
        return {k: v if k in fixed else hostile(v) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def assert_rectangular(markdown: str) -> None:
    """Every row of a table has as many cells as the row above it."""
    width = None
    for line in markdown.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        assert width is None or cells is None or cells == width, line
        width = cells
