"""`parity compare`: what changed between two recordings, for upgrades of frameworks and of code."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from replication.commands import options

if TYPE_CHECKING:
    from reports.compare import Comparison

MOST = 20  # changes of a kind that are printed


def register(app: typer.Typer) -> None:
    """Adds `parity compare` to `app`."""
    app.command(
        "compare", epilog="Example: parity compare runs/before runs/after --markdown summary.md"
    )(command)


def command(
    before: Annotated[Path, typer.Argument(help="A recorded result, or a folder of some.")],
    after: Annotated[Path, typer.Argument(help="The same, recorded later or elsewhere.")],
    markdown: Annotated[
        Path | None, typer.Option(help="Also write a summary for a pull request.", metavar="FILE")
    ] = None,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare two audits, training steps, trajectories, evaluations or training runs.

    Exit status: 0 nothing got worse, 1 a claim that held fails now, or an error or a score got
    worse by more than rounding or chance explains, or a recording contradicts itself, 2 wrong usage
    or input.
    """
    from parity.files import replacing
    from reports.compare import compare
    from reports.compare import markdown as summary

    result = compare(*options.sound([[before], [after]], as_json))
    if markdown is not None:
        with replacing(markdown) as temporary:
            temporary.write_text(summary(result, str(before), str(after)), encoding="utf-8")
    options.keep(result, out, "comparison.json", report=False)
    options.end(result, as_json, lambda: "\n".join(_lines(result)), not result.regressions)


def _lines(result: "Comparison") -> list[str]:
    lines = []
    for pair in result.pairs:
        lines.append(f"{pair.name}:")
        worst_first = sorted(pair.changes, key=lambda one: not one.regression)
        for one in worst_first[:MOST]:
            mark = "regression: " if one.regression else ""
            reason = f" ({one.reason})" if one.reason else ""
            lines.append(f"  {mark}{one.name}: {one.before} -> {one.after}{reason}")
        if len(worst_first) > MOST:
            lines.append(f"  and {len(worst_first) - MOST} more: see --json")
        if not worst_first:
            lines.append("  nothing changed")
    for name in ("only_before", "only_after"):
        if found := getattr(result, name):
            lines.append(f"{name.replace('_', ' ')}: {', '.join(found)}")
    lines.append(f"verdict: {result.verdict} ({result.regressions} regressions)")
    return lines
