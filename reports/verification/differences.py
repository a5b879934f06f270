"""Where two versions of a report's file differ, in a reader's words: table, row and column."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import zip_longest
from typing import Any

from parity.errors import printable
from parity.reading.content import parse_json

MOST = 20  # places named for one file
LENGTH = 160  # characters of a value that is shown
Unit = tuple[str, str]  # a place in words, and what is there
_NOTHING = "nothing"
_VOID = {"meta", "link", "input", "br", "img", "hr", "path", "circle", "line", "rect", "use"}


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be: in which file, where, and both values in words."""

    file: str
    place: str
    expected: str
    found: str

    def __str__(self) -> str:
        text = f"{self.file}: {self.place} is {self.found}, but should be {self.expected}"
        return printable(text, None)


def differences(file: str, expected: bytes, found: bytes) -> list[Problem]:
    """Every place, at most `MOST`, where `found` is not `expected`; none for equal bytes.

    Where something was inserted or left out, all that follows is in another place: then the first
    place alone is named.
    """
    if expected == found:
        return []
    try:
        text = found.decode()
    except UnicodeDecodeError as error:
        return [Problem(file, f"byte {error.start}", "text in UTF-8", str(error.reason))]
    problems = []
    for wanted, present in zip_longest(
        _units(file, expected.decode()), _units(file, text), fillvalue=None
    ):
        if wanted == present:
            continue
        problems.append(_problem(file, wanted, present))
        if wanted is None or present is None or wanted[0] != present[0]:
            break
        if len(problems) == MOST:
            break
    return problems or [_line(file, expected.decode(), text)]


def _problem(file: str, wanted: Unit | None, present: Unit | None) -> Problem:
    """What differs between a unit of the file as it should be, and the one in its place."""
    quoted = str if file.endswith(".json") else _quoted
    expected, found = (_NOTHING if one is None else quoted(one[1]) for one in (wanted, present))
    place = (wanted or present)[0]
    if wanted is not None and present is not None and wanted[0] != present[0]:
        found = f"{present[0]}, {found}"
    return Problem(file, place, *_around(expected, found))


def _around(expected: str, found: str) -> tuple[str, str]:
    """Both texts, cut to where they differ where they are long."""
    if max(len(expected), len(found)) <= LENGTH:
        return expected, found
    same = next(
        (at for at, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b),
        min(len(expected), len(found)),
    )
    start = max(0, same - LENGTH // 4)
    lead = "... " if start else ""
    return f"{lead}{_short(expected[start:])}", f"{lead}{_short(found[start:])}"


def _short(text: str) -> str:
    return text if len(text) <= LENGTH else f"{text[: LENGTH - 4]} ..."


def shown(value: Any) -> str:
    """A value as one short line; texts in quotation marks."""
    return _short(_quoted(value))


def _quoted(value: Any) -> str:
    if value is None:
        return _NOTHING
    if isinstance(value, str):
        return f"'{' '.join(value.split())}'"
    return json.dumps(value, default=str)


def _units(file: str, text: str) -> Iterator[Unit]:
    if file.endswith(".html"):
        return iter(_Page(text).units)
    if file.endswith(".json"):
        try:
            return _leaves("", parse_json(text.encode("utf-8", "surrogatepass"), file))
        except ValueError as error:
            return iter([("the file", f"no complete JSON: {error}")])
    return _markdown(text)


def _line(file: str, expected: str, found: str) -> Problem:
    """The first line that differs, where nothing that is shown does."""
    lines = zip_longest(
        expected.splitlines(keepends=True), found.splitlines(keepends=True), fillvalue=None
    )
    for number, (wanted, present) in enumerate(lines, 1):
        if wanted != present:
            return Problem(file, f"line {number}", *_around(repr(wanted), repr(present)))
    return Problem(file, "the file", "as it was rendered", "other bytes")


def _leaves(place: str, value: Any) -> Iterator[Unit]:
    """(place, value) of every value in a JSON document, members of lists with their id or file."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(f"{place}.{name}" if place else name, item)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            label = ""
            if isinstance(item, dict):
                name = next((item[key] for key in ("id", "file", "title") if key in item), None)
                label = f" ({name})" if isinstance(name, str) else ""
            yield from _leaves(f"{place}[{index}]{label}", item)
    else:
        yield place or "the file", json.dumps(value)


def _markdown(text: str) -> Iterator[Unit]:
    """(place, text) of every line, and of every cell of a table."""
    heading, columns = "", None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            heading = line.lstrip("# ")
        place = f"line {number}" + (f", under {heading!r}" if heading else "")
        if not line.startswith("|"):
            columns = None
            yield place, line
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        columns = columns or cells
        if len(cells) != len(columns):
            yield place, line
            continue
        for title, cell in zip(columns, cells, strict=True):
            yield f"{place}, column {title!r}", cell


class _Page(HTMLParser):
    """(place, text) of every text and attribute of a page, places in the words of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.units: list[Unit] = []
        self._open: list[str] = []
        self._headings = ["", "", ""]
        self._caption = ""
        self._columns: list[str] = []
        self._row = self._column = 0
        self.feed(text)
        self.close()

    def _place(self) -> str:
        headings = [one for one in self._headings if one]
        place = f"under {' / '.join(headings)!r}" if headings else "the page"
        if "table" in self._open:
            place += f", table {self._caption!r}"
            if {"td", "th"} & set(self._open):
                known = self._columns[self._column - 1 :][:1]
                title = f" ({known[0]})" if known and "td" in self._open else ""
                place += f", row {self._row}, column {self._column}{title}"
        return place

    def handle_decl(self, decl: str) -> None:
        self.units.append(("the first line", decl))

    def handle_comment(self, data: str) -> None:
        self.units.append((f"{self._place()}, comment", data))

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._caption, self._columns, self._row = "", [], -1
        elif tag == "tr":
            self._row, self._column = self._row + 1, 0
        elif tag in ("td", "th"):
            self._column += 1
        if tag not in _VOID:
            self._open.append(tag)
        place = self._place()
        self.units.append((place, f"<{tag}>"))
        self.units += [(f"{place}, {name} of <{tag}>", value or "") for name, value in attrs]

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        place = self._place()
        self.units.append((place, f"<{tag}/>"))
        self.units += [(f"{place}, {name} of <{tag}>", value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass
        self.units.append((self._place(), f"</{tag}>"))

    def handle_data(self, data: str) -> None:
        text = " ".join(data.split())
        if not text:
            return
        level = next((int(tag[1]) for tag in self._open if re.fullmatch("h[1-3]", tag)), None)
        if "caption" in self._open:
            self._caption += text
        elif "th" in self._open:
            self._columns.append(text)
        elif level is not None:
            self._headings[level - 1] = text
            self._headings[level:] = [""] * (3 - level)
        self.units.append((f"{self._place()}, text", text))
