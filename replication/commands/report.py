"""`parity report`: one report from the results that other commands recorded; no model runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from replication.commands import options


def register(app: typer.Typer) -> None:
    """Adds `parity report` to `app`."""
    app.command(
        "report", epilog="Example: parity report runs/photo runs/both trajectory.json --out report"
    )(command)


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Recorded JSON results, folders of runs, or folders with some."),
    ],
    out: options.OutFolder,
    as_json: options.AsJson = False,
) -> None:
    """Report on recorded results: report.html, report.md, report.json, and the evidence itself.

    Exit status: 0 nothing that was run fails, 1 a claim fails, 2 wrong usage or input.
    """
    from parity.claims import Claim
    from reports.loading import load
    from reports.render import DATA, write_report

    page = write_report(load(runs), out)
    document = json.loads(page.with_name(DATA).read_text(encoding="utf-8"))
    failed = [claim for claim in document["claims"] if claim["verdict"] == "fails"]
    lines = [
        *(f"{Claim.from_json(claim).failure} ({claim['file']})" for claim in failed),
        f"Is the difference acceptable? {document['answer']}",
        f"report: {page}",
    ]
    options.end(document, as_json, lambda: "\n".join(lines), not failed)
