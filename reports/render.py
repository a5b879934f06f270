"""Writes a report: a page without any outside part, its Markdown and JSON twins, its evidence."""

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from maskformer.errors import InputError
from reports import audit, evaluation, evidence, training
from reports.derived import all_claims, incomplete
from reports.document import Chapter
from reports.evidence import Evidence, names, of_result
from reports.plots import stage_class

SCHEMA = "maskformer-replication/report/2"
PAGE, TWIN, DATA = "report.html", "report.md", "report.json"
FOLDER = "evidence"
CHAPTERS: Mapping[str, Callable[[Mapping[str, Any], str], Chapter]] = {
    evidence.AUDIT: audit.chapter,
    evidence.EVALUATION: evaluation.chapter,
    evidence.TRAINING_STEP: training.chapter,
}


def write_report(results: Sequence[Mapping[str, Any] | Evidence], out_dir: Path) -> Path:
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


def render(results: Sequence[Mapping[str, Any] | Evidence]) -> dict[str, str]:
    """The page and its twins as text, by name."""
    found = [one if isinstance(one, Evidence) else of_result(one) for one in results]
    claims = all_claims(found)
    chapters = tuple(
        _chapter(one, next(iter(places.values())))
        for one, places in zip(found, names(found), strict=True)
    )
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "cell": _markdown_text,
        "code": _markdown_code,
        "stage": stage_class,
    }
    script = _asset(environment, "report.js")
    page = environment.get_template("report.html.j2").render(
        chapters=chapters,
        style=_asset(environment, "report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    twin = environment.get_template("report.md.j2").render(chapters=chapters)
    document = {
        "schema": SCHEMA,
        "chapters": [
            {"title": one.title, "verdict": one.verdict, "headline": one.headline}
            for one in chapters
        ],
        "claims": [
            {key: value for key, value in one.items() if key != "measured"} for one in claims
        ],
        "evidence": [
            {"file": place, "sha256": evidence.sha256(one.files[name]), "schema": one.schema}
            for one, places in zip(found, names(found), strict=True)
            for name, place in places.items()
        ],
    }
    return {
        DATA: json.dumps(evidence.strict(document), indent=1, allow_nan=False) + "\n",
        TWIN: twin,
        PAGE: page,
    }


def _chapter(one: Evidence, file: str) -> Chapter:
    try:
        return CHAPTERS[one.schema](one.content, file)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise incomplete(one, error) from error


def _asset(environment: Environment, name: str) -> Markup:
    source, _, _ = environment.loader.get_source(environment, name)
    return Markup(source)


def _markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line, inside a table cell or elsewhere."""
    line = " ".join(str(text).split())
    for mark in ("\\", "|", "`", "*", "_", "[", "]", "~"):
        line = line.replace(mark, f"\\{mark}")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown_code(text: str) -> str:
    """Text as a code span that cannot end early, also inside a table cell."""
    return f"`{' '.join(str(text).split()).replace('`', chr(39)).replace('|', chr(92) + '|')}`"
