"""The evidence that a report lists, and whether what lies in its folder is that."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parity.reading import bounds
from parity.reading.content import read_json
from parity.results import written_as
from reports import evidence
from reports.derived import BROKEN
from reports.evidence import DATA, FOLDER, SCHEMA
from reports.verification.differences import Problem, shown


@dataclass(frozen=True)
class Listing:
    """sha256 by file, None where a report lists nothing that can be read, and what is there."""

    digests: Mapping[str, str] | None
    present: tuple[str, ...]
    problems: tuple[Problem, ...]


def is_report(folder: Path) -> bool:
    """Whether a report lies in the folder."""
    return (folder / DATA).is_file()


def listing(folder: Path) -> Listing:
    """What the report in `folder` lists, and the files in its evidence.

    Links are problems: what they lead to is no part of the report.
    """
    problems, digests = [], None
    try:
        document = read_json(folder / DATA, bounds.RECORD_BYTES)
        if not written_as(document["schema"], SCHEMA):
            problems.append(Problem(DATA, "schema", shown(SCHEMA), shown(document["schema"])))
        digests = {one["file"]: one["sha256"] for one in document["evidence"]}
    except (OSError, *BROKEN) as error:
        text = f"{type(error).__name__}: {error}"
        problems.append(Problem(DATA, "the file", "a list of the evidence", shown(text)))
    present = []
    for path in sorted((folder / FOLDER).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            problems.append(Problem(name, "the file", "a file of the report", "a link"))
        elif path.is_file():
            present.append(name)
    return Listing(digests, tuple(present), tuple(problems))


def unlisted(folder: Path, known: Listing) -> list[Problem]:
    """Files that are missing, others than were listed, or not listed."""
    if known.digests is None:
        return []
    problems = []
    for name, digest in known.digests.items():
        if name not in known.present:
            problems.append(Problem(name, "the file", f"sha256 {digest}", "missing"))
            continue
        own = evidence.sha256((folder / name).read_bytes())
        if own != digest:
            problems.append(Problem(name, "the file's sha256", str(digest), own))
    return problems + [
        Problem(name, "the file", "listed in report.json", "not listed")
        for name in known.present
        if name not in known.digests
    ]
