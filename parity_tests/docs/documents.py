"""What documents contain: commands, links, anchors, tables."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")))
LISTED = json.loads((Path(__file__).parent / "commands.json").read_text(encoding="utf-8"))


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def commands_in(text: str) -> list[str]:
    """Command lines of shell blocks, joined where they go on, without comments; single spaces."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    shown = (line.partition(" #")[0].split() for line in lines if line and line[0] != "#")
    return [" ".join(words) for words in shown if words]


def documented() -> list[str]:
    """Every command of every document, once, in reading order."""
    return list(dict.fromkeys(c for name in DOCUMENTS for c in commands_in(text_of(name))))


def shorter(command: str) -> str:
    """The command with fewer steps, where a test would take hours."""
    for long, short in LISTED["shorter"].items():
        command = command.replace(long, short)
    return command


def links_in(text: str) -> list[str]:
    """Targets of links and pictures outside code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    text = re.sub(r"`[^`\n]*`", "", text)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)


def anchors_in(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        words = re.sub(r"[`*_]|\]\([^)]*\)|\[", "", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (name := slug if not number else f"{slug}-{number}") in found:
            number += 1
        found.add(name)
    return found


def broken_links(document: str, text: str) -> list[str]:
    """Links to files that are not there, and to headings that a document does not have."""
    broken = []
    for target in links_in(text):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / document).parent / file if file else ROOT / document
        if not path.exists():
            broken.append(f"{target}: no such file")
        elif anchor and path.suffix == ".md":
            other = text if not file else path.read_text(encoding="utf-8")
            if anchor not in anchors_in(other):
                broken.append(f"{target}: no such heading")
    return broken


def crooked_rows(text: str) -> Iterator[str]:
    """Rows of tables that have another number of cells than the row above."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    width = None
    for line in text.splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line)))
        if width is not None and cells != width:
            yield line
        width = width or cells
