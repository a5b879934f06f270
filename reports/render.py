"""Writes a report: a page without any outside part, its Markdown and JSON twins, its evidence."""

import base64
import dataclasses
import hashlib
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from parity.errors import InputError
from parity.records import json_text, plain
from parity.results import Result
from reports import evidence
from reports.derived import BROKEN, Stated, all_claims, incomplete
from reports.document import Cell, Chapter
from reports.drawing.plots import stage_class
from reports.escaping import in_attribute, in_code, in_html, in_markdown, in_prose
from reports.evidence import DATA, FOLDER, SCHEMA, Evidence, names
from reports.kind import Kind
from reports.ladder import BESIDE, RUNGS, verdict_of
from reports.loading import of_result
from reports.summary import nearest_to_limit, summary
from reports.words import spoken, tone

SHOWN = 0.051  # relative: what is left out of a number that is shown with two digits
PAGE, TWIN = "report.html", "report.md"
NEAREST = ("id", "value", "limit")  # what report.json says of the claim nearest to its limit


def write_report(results: Sequence[Result | Mapping[str, Any] | Evidence], out_dir: Path) -> Path:
    """Writes `report.html`, its twins and `evidence/` into `out_dir`; returns the page's path.

    A pure function of `results` (recorded results, each with its "schema", or evidence that was
    loaded): equal results give equal bytes. Nothing is written unless all can be rendered; each
    file appears whole, the evidence of an earlier report in the folder is replaced.
    Raises InputError for an unknown schema or a result without what its schema promises.
    """
    found = [one if isinstance(one, Evidence) else of_result(one) for one in results]
    files = {name: text.encode() for name, text in render(found).items()}
    out_dir = Path(out_dir)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out_dir, prefix=".report."))
        try:
            for one, places in zip(found, names(found), strict=True):
                for name, place in places.items():
                    files[place] = one.files[name]
            for name, content in files.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_bytes(content)
            if (out_dir / FOLDER).is_dir():
                os.replace(out_dir / FOLDER, temporary / "before")
            for name in (FOLDER, DATA, TWIN, PAGE):
                if (temporary / name).exists():
                    os.replace(temporary / name, out_dir / name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{out_dir} cannot be written",
            f"{type(error).__name__}: {error.strerror or error}",
            "choose another folder, or free some space",
        ) from None
    return out_dir / PAGE


def render(results: Sequence[Result | Mapping[str, Any] | Evidence]) -> dict[str, str]:
    """The page and its twins as text, by name."""
    found = [one if isinstance(one, Evidence) else of_result(one) for one in results]
    claims = all_claims(found)
    top = summary(found, claims)
    chapters = _chapters(found, claims)
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "cell": in_markdown,
        "code": in_code,
        "prose": in_prose,
        "attribute": in_attribute,
        "stage": stage_class,
        "order": _order,
    }
    environment.tests["plain"] = _is_plain
    script = _asset(environment, "report.js")
    page = (
        environment.overlay(finalize=in_html)
        .get_template("report.html.j2")
        .render(
            summary=top,
            chapters=chapters,
            style=_asset(environment, "report.css"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )
    twin = environment.get_template("report.md.j2").render(summary=top, chapters=chapters)
    document = {
        "schema": SCHEMA,
        "verdict": top.story.verdict,
        "story": plain(top.story),
        "headline": top.headline,
        "answer": top.answer,
        "chapters": [
            {"title": one.title, "verdict": one.verdict, "headline": one.headline}
            for one in chapters
        ],
        "claims": [_recorded(one) for one in claims],
        "ladder": _ladder(claims),
        "evidence": [
            {"file": place, "sha256": evidence.sha256(one.files[name]), "schema": one.schema}
            for one, places in zip(found, names(found), strict=True)
            for name, place in places.items()
        ],
    }
    return {
        DATA: json_text(document),
        TWIN: twin,
        PAGE: page,
    }


def _recorded(claim: Stated) -> dict[str, Any]:
    """A claim as report.json has it: what was measured is in its evidence."""
    written = claim.to_json()
    written.pop("measured", None)
    return {**written, "rung": claim.rung, "file": claim.file}


def _ladder(claims: Sequence[Stated]) -> list[dict[str, Any]]:
    """Every rung with its verdict, and what it rests on."""
    found = []
    for rung in (*RUNGS, *BESIDE):
        own = [claim for claim in claims if claim.rung == rung.id]
        nearest = nearest_to_limit(own)
        found.append(
            {
                "rung": rung.id,
                "title": rung.title,
                "verdict": verdict_of(own),
                "claims": len(own),
                "cases": sum(claim.cases or 0 for claim in own),
                "nearest": nearest and {key: getattr(nearest, key) for key in NEAREST},
                "files": list(dict.fromkeys(claim.file for claim in own)),
            }
        )
    return found


def _chapters(found: Sequence[Evidence], claims: Sequence[Stated]) -> tuple[Chapter, ...]:
    """A chapter for each result, in order; those that belong together are at the first's place."""
    chapters: list[Chapter] = []
    files = [next(iter(places.values())) for places in names(found)]
    drawn: set[tuple[Kind, str | None]] = set()
    for one, file in zip(found, files, strict=True):
        about = (one.kind, one.config)
        alike = [(one, file)]
        if one.kind.special.together is not None:
            if about in drawn:
                continue
            alike = [
                (other, place)
                for other, place in zip(found, files, strict=True)
                if (other.kind, other.config) == about
            ]
        drawn.add(about)
        members = {place for _, place in alike}
        shown = one if one.kind.special.together is None else [other for other, _ in alike]
        own = [claim for claim in claims if claim.file in members]
        try:
            chapter = one.kind.chapter(shown, own)
        except BROKEN as error:
            raise incomplete(one, error) from error
        verdict = spoken(chapter.verdict)
        chapter = dataclasses.replace(
            chapter, verdict=verdict, tone=tone(verdict), file=", ".join(sorted(members))
        )
        chapters.append(chapter)
    return _told_apart(chapters)


def _told_apart(chapters: Sequence[Chapter]) -> tuple[Chapter, ...]:
    """The chapters; those of the same title are counted."""
    count = Counter(one.title for one in chapters)
    so_far: Counter[str] = Counter()
    told = []
    for one in chapters:
        so_far[one.title] += 1
        if count[one.title] > 1:
            title = f"{one.title} ({so_far[one.title]} of {count[one.title]})"
            told.append(dataclasses.replace(one, title=title))
        else:
            told.append(one)
    return tuple(told)


def _asset(environment: Environment, name: str) -> Markup:
    source, _, _ = environment.loader.get_source(environment, name)
    return Markup(source)


def _is_plain(cell: Cell) -> bool:
    """Whether a script can read the number that a cell is sorted by from its text."""
    text = cell.text.replace(",", "").removesuffix(" %")
    try:
        found = float(text)
    except ValueError:
        return False
    return math.isclose(found, cell.value, rel_tol=SHOWN)


def _order(value: float) -> str:
    """A number to sort by, as scripts read it; the digits that its order may need."""
    if isinstance(value, int):
        return str(value)
    return f"{value:.6g}".replace("inf", "Infinity")
