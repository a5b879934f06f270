"""Writes a report: one HTML page without any outside part, and its Markdown and JSON twins."""

import base64
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from maskformer.errors import InputError
from reports import audit, evaluation, training
from reports.document import Chapter
from reports.plots import stage_class

SCHEMA = "maskformer-replication/report/1"
CHAPTERS = {
    audit.SCHEMA: audit.chapter,
    evaluation.SCHEMA: evaluation.chapter,
    training.SCHEMA: training.chapter,
}


def write_report(results: Sequence[Mapping[str, Any]], out_dir: Path) -> Path:
    """Writes `index.html`, `index.md` and `report.json` into `out_dir`; returns the page's path.

    A pure function of `results` (recorded results, each with its "schema"): equal results give
    equal bytes. Nothing is written unless all three can be rendered, and each file appears whole.
    Raises InputError for an unknown schema or a result without what its schema promises.
    """
    files = render(results)
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        _write_whole(out_dir / name, content)
    return out_dir / "index.html"


def render(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The report's files as text, by name."""
    chapters = tuple(_chapter(result) for result in results)
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
    document = {"schema": SCHEMA, "verdicts": _verdicts(chapters), "results": list(results)}
    return {
        "report.json": json.dumps(_strict(document), indent=1, allow_nan=False) + "\n",
        "index.md": twin,
        "index.html": page,
    }


def _chapter(result: Mapping[str, Any]) -> Chapter:
    schema = result.get("schema")
    if schema not in CHAPTERS:
        raise InputError(
            f"the result has the schema {schema!r}, which no report knows",
            f"known: {', '.join(CHAPTERS)}",
            "record the result again with this version, or report it with the version that made it",
        )
    try:
        return CHAPTERS[schema](result)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the result is not a complete {schema}",
            f"{type(error).__name__}: {error}",
            "record it again; a report is never made from a part of a result",
        ) from error


def _asset(environment: Environment, name: str) -> Markup:
    source, _, _ = environment.loader.get_source(environment, name)
    return Markup(source)


def _verdicts(chapters: Sequence[Chapter]) -> list[dict[str, str]]:
    return [
        {"title": chapter.title, "verdict": chapter.verdict, "headline": chapter.headline}
        for chapter in chapters
    ]


def _strict(value: Any) -> Any:
    """The value with numbers that JSON has no word for written as text: "nan", "inf", "-inf"."""
    if isinstance(value, Mapping):
        return {str(name): _strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line, inside a table cell or elsewhere."""
    line = " ".join(str(text).split())
    for mark in ("\\", "|", "`", "*", "_", "[", "]", "~"):
        line = line.replace(mark, f"\\{mark}")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown_code(text: str) -> str:
    """Text as a code span that cannot end early, also inside a table cell."""
    return f"`{' '.join(str(text).split()).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _write_whole(path: Path, content: str) -> None:
    """The file has its old content or its new one, at every moment."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
