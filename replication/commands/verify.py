"""`parity verify`: recomputes a report's verdicts from its evidence; no model runs."""

import dataclasses
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parity.errors import InputError
from replication.commands import options

if TYPE_CHECKING:
    from parity.judge import Limits
    from reports.verification.verify import Rejudged, Verification

SCHEMA = "maskformer-replication/verification/1"


def register(app: typer.Typer) -> None:
    """Adds `parity verify` to `app`."""
    app.command("verify", epilog="Example: parity verify reports/out/demo --limit float32_ratio=2")(
        command
    )


def command(
    report: Annotated[Path, typer.Argument(help="A report's folder, or one of its files.")],
    limit: Annotated[
        list[str] | None,
        typer.Option(help="Judge by another limit, see --help; repeatable.", metavar="NAME=VALUE"),
    ] = None,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Recompute every verdict of a report from its evidence, and compare every file.

    Limits: floor_factor, cap, float32_ratio, decision_margin, loss_gap, trajectory_loss_gap,
    placed, explained.

    Exit status: 0 the report is what its evidence says (and, with --limit, all claims hold by these
    limits), 1 it is not, 2 wrong usage or input.
    """
    from reports.verification.verify import verify

    begun = time.perf_counter()
    limits = limits_of(limit or [])
    found = verify(report, limits)
    result = described(found, limits, time.perf_counter() - begun)
    options.keep(result, out, "verification.json", report=False)
    refuted = found.problems or (limit and found.failing)
    options.end(result, as_json, lambda: "\n".join(_lines(found, result, bool(limit))), not refuted)


def limits_of(words: list[str]) -> "Limits":
    """The limits with those named in NAME=VALUE texts in place of the usual ones."""
    from parity.judge import DEFAULT, Limits

    known = [one.name for one in dataclasses.fields(Limits)]
    changed = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in known:
            raise InputError(
                f"--limit has {name!r}",
                f"known: {', '.join(known)}",
                "for example --limit cap=1e-10",
            )
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise InputError(
                f"--limit {name} is {text!r}", "expected a number that is not negative"
            )
        changed[name] = value
    return dataclasses.replace(DEFAULT, **changed)


def described(found: "Verification", limits: "Limits", seconds: float) -> dict[str, Any]:
    """The verification as one JSON object (`SCHEMA`)."""
    return {
        "schema": SCHEMA,
        "verdict": "different" if found.problems else "verified",
        "report": str(found.folder),
        "files": found.files,
        "limits": dataclasses.asdict(limits),
        "given": list(found.given),
        "problems": [dataclasses.asdict(one) for one in found.problems],
        "claims": [dataclasses.asdict(one) for one in found.claims],
        "failing": len(found.failing),
        "seconds": round(seconds, 3),
    }


def _lines(found: "Verification", result: dict[str, Any], relimited: bool) -> list[str]:
    lines = [str(one) for one in found.problems]
    changed = [one for one in found.claims if one.verdict not in (None, one.recorded)]
    if relimited:
        lines += [_changed(one) for one in changed]
    judged = [one for one in found.claims if one.verdict is not None]
    lines.append(
        f"{found.folder}: {found.files} files, {len(judged)} of {len(found.claims)} claims judged "
        f"again, {len(found.failing)} fail, {result['seconds']:.1f} s"
    )
    if found.problems:
        lines.append(f"not verified: {len(found.problems)} places are not what the evidence says")
    else:
        lines.append(f"taken as recorded: {'; '.join(found.given)}")
        lines.append("verified: every file is what the evidence says")
    return lines


def _changed(one: "Rejudged") -> str:
    return (
        f"{one.verdict} by these limits, recorded as {one.recorded}: {one.title}: {one.value:.3g}, "
        f"limit {one.limit:.3g} ({one.file}, {one.id})"
    )
