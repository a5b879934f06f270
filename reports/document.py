"""What a page is made of, before it is HTML or Markdown: sections of plain blocks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Text:
    """One paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    kind: ClassVar[str] = "items"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and a value; values are shown as they were recorded."""

    kind: ClassVar[str] = "facts"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cell:
    """One table cell; `value` is what it is sorted by, `tone` is "", "good" or "bad"."""

    text: str
    value: float | str = ""
    tone: str = ""
    stage: str = ""


@dataclass(frozen=True)
class Column:
    """A table column; `choices` offers its values as a filter, `prose` is room for sentences."""

    title: str
    numeric: bool = False
    code: bool = False
    choices: bool = False
    prose: bool = False


@dataclass(frozen=True)
class Table:
    """A table; `interactive` ones can be sorted and filtered, and fold in Markdown."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    interactive: bool = False


@dataclass(frozen=True)
class Plot:
    """One drawing at two widths (`wide` may be absent: then `narrow` serves every screen)."""

    title: str
    narrow: Markup
    wide: Markup | None = None


@dataclass(frozen=True)
class Figure:
    """Plots side by side with one caption, and the names of the colours that they use.

    `stages` are those of a plot of limits; `series` are (colour class, name).
    """

    kind: ClassVar[str] = "figure"
    caption: str
    plots: tuple[Plot, ...]
    stages: tuple[str, ...] = ()
    series: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Claim:
    """One rung of the ladder, every value already in words."""

    title: str
    verdict: str
    tone: str
    facts: tuple[tuple[str, str], ...]
    derivation: str
    evidence: str
    command: str
    file: str = ""


@dataclass(frozen=True)
class Step:
    """A rung of the ladder over all results, and the claims that stand on it; values in words."""

    id: str
    title: str
    statement: str
    verdict: str
    tone: str
    margin: str
    cases: str
    command: str
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Steps:
    """Rungs from the strongest ground up; `numbered` says whether their order means anything."""

    kind: ClassVar[str] = "steps"
    steps: tuple[Step, ...]
    numbered: bool = True


@dataclass(frozen=True)
class Picture:
    """An image inside the page, as a data URI."""

    title: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Pictures:
    """Images one below the other, with one caption; `alt` says what each of them is."""

    kind: ClassVar[str] = "pictures"
    caption: str
    alt: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Hand:
    """What a module hands to another: which tensor, what was measured of it, and its tone."""

    to: str
    text: str
    tone: str


@dataclass(frozen=True)
class Box:
    """A module: what was measured of it by name, what it hands on, and the modules in it.

    `tone` is "good", "bad", "inherited", or "" for one that was not measured; `open` where
    something in it is at fault.
    """

    name: str
    tone: str
    facts: tuple[tuple[str, str], ...]
    hands: tuple[Hand, ...]
    children: tuple["Box", ...]
    open: bool


@dataclass(frozen=True)
class Boxes:
    """A network as boxes in boxes, of which each can be opened."""

    kind: ClassVar[str] = "boxes"
    caption: str
    root: Box


Block = Boxes | Text | Items | Facts | Table | Figure | Steps | Pictures


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...] = field(default=())


@dataclass(frozen=True)
class Chapter:
    """One result, or several of a kind: title, verdict in one line, and sections."""

    title: str
    verdict: str
    tone: str
    headline: str
    sections: tuple[Section, ...]
    file: str = ""


@dataclass(frozen=True)
class Summary:
    """What stands before all chapters: the verdict in one line, and sections about all results.

    `story` says what the results say of the two models, and `general` whether they are any two,
    and not those of a configuration. `answer` is what that means to who asks whether a difference
    is acceptable.
    """

    story: Any
    tone: str
    general: bool
    headline: str
    answer: str
    sections: tuple[Section, ...]


def number(value: Any) -> str:
    """A number as people read it: `3.1e-15`, `1.27`, `45,012,038`; other values as text."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    if value == 0:
        return "0"
    if 0.01 <= abs(value) < 100:
        return f"{value:.3g}"
    if 100 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def describe(value: Any) -> str:
    """Any recorded value on one line: nested values as `name: value; name: value`."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {describe(item)}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(describe(item) for item in value)
    return number(value)


def flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Pairs of dotted name and described value, in recorded order."""
    pairs: list[tuple[str, str]] = []
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            pairs += flatten(item, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", describe(item) or "none"))
    return pairs
