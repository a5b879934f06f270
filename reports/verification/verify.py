"""Recomputes a report from its evidence, and names all that does not follow from it.

A report is a function of its evidence. So its evidence must be what its hashes say, every verdict
must follow from the measurements in the evidence, and the report rendered again must be the same,
byte for byte. No model runs; of numerical packages NumPy and SciPy's statistics are used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parity.errors import InputError
from parity.judge import DEFAULT, Limits
from reports.derived import BROKEN, Stated, all_claims
from reports.evidence import DATA, FOLDER, Evidence
from reports.given import told
from reports.kind import Kind
from reports.kinds import KINDS
from reports.loading import load
from reports.render import PAGE, TWIN, render
from reports.verification.differences import Problem, differences, shown
from reports.verification.listing import listing, unlisted
from reports.verification.recheck import contradictions


@dataclass(frozen=True)
class Rejudged:
    """One claim under the limits that were asked for; `judged` is None where it cannot be.

    `recorded` is the verdict that the report shows.
    """

    file: str
    id: str
    title: str
    recorded: str
    verdict: str | None
    value: float | None
    limit: float | None


@dataclass(frozen=True)
class Verification:
    """All that is wrong with a report, and its claims judged again.

    `given` is what follows from nothing else in the evidence, in words: it was taken as recorded.
    """

    folder: Path
    problems: tuple[Problem, ...]
    claims: tuple[Rejudged, ...]
    files: int
    given: tuple[str, ...]

    @property
    def failing(self) -> tuple[Rejudged, ...]:
        """Claims that fail under the limits asked for."""
        return tuple(one for one in self.claims if one.verdict == "fails")


def verify(
    report: Path, limits: Limits = DEFAULT, kinds: Mapping[str, Kind] = KINDS
) -> Verification:
    """Verifies the report in a folder, or of which `report` is one of the files.

    Raises InputError where there is no report at all.
    """
    folder = _folder(report)
    problems: list[Problem] = []
    listed = listing(folder)
    problems += [*listed.problems, *unlisted(folder, listed)]
    complete = all(one.found != "missing" for one in problems)
    before = len(problems)
    found = _load(folder, problems, kinds)
    if found:
        complete = complete and len(problems) == before
        problems += contradictions(found)
        drawn = _rendered(folder, [one for _, one in found])
        # Rendered from a part of the evidence, all of the report would differ; where nothing but
        # report.json does, the evidence is whole, and the list of it is wrong.
        if complete or all(one.file == DATA for one in drawn):
            problems += drawn
    claims = _judged([one for _, one in found], limits) if found else ()
    given = told(one.kind.taken for _, one in found)
    return Verification(folder, tuple(problems), claims, 3 + len(listed.present), given)


def _folder(report: Path) -> Path:
    folder = report if report.is_dir() else report.parent
    names = (PAGE, TWIN, DATA)
    if report.is_dir():
        known = any((folder / name).is_file() for name in names)
    else:
        known = report.is_file() and report.name in names
    if not known:
        raise InputError(
            f"{report} is no report",
            f"expected a folder with {', '.join(names)} and {FOLDER}/, or one of these files",
            "make one: parity report RUN --out DIR",
        )
    return folder


def _load(
    folder: Path, problems: list[Problem], kinds: Mapping[str, Kind]
) -> list[tuple[str, Evidence]]:
    """Every piece of evidence, with its file's name; what cannot be read is a problem."""
    root = folder / FOLDER
    if not root.is_dir():
        problems.append(Problem(FOLDER, "the folder", "the report's evidence", "missing"))
        return []
    found = []
    for path in sorted(root.iterdir(), key=_number):
        name = path.relative_to(folder).as_posix()
        try:
            found += [(name, one) for one in load([path], kinds)]
        except (InputError, *BROKEN) as error:
            text = " ".join(str(error).replace(str(folder), "").split())
            problems.append(Problem(name, "the content", "a recorded result", shown(text)))
    return found


def _number(path: Path) -> tuple[int, str]:
    """Sorts 100-run behind 99-run."""
    digits = path.name.partition("-")[0]
    return int(digits) if digits.isdecimal() else -1, path.name


def _rendered(folder: Path, found: list[Evidence]) -> list[Problem]:
    """What differs between the files and those that the evidence gives now."""
    try:
        files = render(found)
    except (InputError, *BROKEN) as error:
        text = " ".join(str(error).split())
        return [Problem(FOLDER, "the content", "evidence that can be reported", shown(text))]
    problems = []
    for name, expected in files.items():
        try:
            content = (folder / name).read_bytes()
        except OSError:
            problems.append(Problem(name, "the file", "the report", "missing"))
            continue
        problems += differences(name, expected.encode(), content)
    return problems


def _judged(found: list[Evidence], limits: Limits) -> tuple[Rejudged, ...]:
    try:
        claims = all_claims(found)
    except (InputError, *BROKEN):
        return ()
    return tuple(_again(one, limits) for one in claims)


def _again(one: Stated, limits: Limits) -> Rejudged:
    names = (one.file, one.id, one.title, one.verdict)
    if one.measured is None:
        return Rejudged(*names, None, None, None)
    try:
        judged = one.measured.judge(limits)
    except BROKEN:
        return Rejudged(*names, None, None, None)
    return Rejudged(*names, judged.verdict, judged.value, judged.limit)
