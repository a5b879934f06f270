"""`parity explain`: what an audit found, told in words, and what may have caused it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from parity.errors import InputError
from parity.records import plain
from replication.commands import options

if TYPE_CHECKING:
    from parity.auditing.unfinished import Unfinished
    from reports.evidence import Evidence

AUDIT = "audit.json"
SCHEMA = "maskformer-replication/explanation/1"


def register(app: typer.Typer) -> None:
    """Adds `parity explain` to `app`."""

    @app.command("explain", epilog="Example: parity explain runs/photo")
    def command(
        run: Annotated[Path, typer.Argument(help="Folder that `parity audit --out` wrote.")],
        out: options.Out = None,
        as_json: options.AsJson = False,
    ) -> None:
        """Tell where an audited port goes wrong first, and which mistakes explain it.

        Of an audit that was ended it tells what was found until then. Exit status: 0 the port is
        equal, 1 it differs, was ended, or the recording contradicts itself, 2 wrong usage or input.
        """
        from parity.auditing.unfinished import read_unfinished

        if run.is_dir() and (left := read_unfinished(run)) is not None:
            _tell_unfinished(left, out, as_json)
        found = _read(run, as_json)
        findings = _findings(found)
        options.keep(findings, out, "explanation.json", report=False)
        equal = found.result.verdict == "equal"
        options.end(findings, as_json, lambda: "\n".join(lines(found)), equal)


def _tell_unfinished(left: "Unfinished", out: Path | None, as_json: bool) -> NoReturn:
    from reports.audit_story import told_unfinished

    findings = {
        "schema": SCHEMA,
        "verdict": "unfinished",
        "differing": left.differing,
        "told": left.told,
        "places": plain(left.places),
    }
    options.keep(findings, out, "explanation.json", report=False)
    options.end(findings, as_json, lambda: "\n".join(told_unfinished(left)), False)


def _read(run: Path, as_json: bool) -> "Evidence":
    """The audit in a folder or file, judged again; raises InputError where there is none."""
    path = run / AUDIT if run.is_dir() else run
    try:
        ((found,),) = options.sound([[path]], as_json)
    except InputError as error:
        raise InputError(
            f"{run} holds no audit",
            " ".join(str(error).split()),
            "give a folder that `parity audit --out` wrote",
        ) from None
    from parity.auditing.result import AuditResult

    if not isinstance(found.result, AuditResult):
        raise InputError(
            f"{run} holds no audit",
            f"it is a result of the kind {found.kind.name}",
            "give a folder that `parity audit --out` wrote",
        )
    return found


def _findings(found: "Evidence") -> dict[str, Any]:
    from reports.audit_story import in_training
    from reports.story import story_of

    result = found.result
    story = story_of([found])
    return {
        "schema": SCHEMA,
        "verdict": result.verdict,
        "sentence": story.sentence,
        "failed_claims": [one.id for one in result.failing],
        "first_divergence": result.first_divergence,
        "places": plain(result.localisations),
        "story": plain(story.places),
        "training": [
            {"claim": one.id, "place": one.place.text, "cause": one.cause}
            for one in in_training(result)
        ],
    }


def lines(found: "Evidence") -> list[str]:
    """The story of an audit for a terminal: the sentence, then all that it rests on."""
    from reports.audit_story import told
    from reports.story import bare, story_of

    result = found.result
    if any(one.drowned for one in result.claims) and not result.failing:
        return [bare(story_of([found]).sentence)]
    if not result.failing:
        return [
            f"Nothing to explain: the port is equal ({result.taps} tensors compared, "
            f"{len(result.claims)} claims hold)."
        ]
    story = story_of([found])
    ends = dict.fromkeys(f"Next: {bare(one.next)}." for one in story.places)
    return [bare(story.sentence), "", *told(result), *([""] if ends else []), *ends]
