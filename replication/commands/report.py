"""`parity report`: one report from the results that other commands recorded; no model runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from parity.errors import printable
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

    Each result is judged again first; one that does not say what it measured is named, and no
    report is made.

    Exit status: 0 nothing that was run fails, 1 a claim fails, or a result contradicts itself,
    2 wrong usage or input.
    """
    from parity.claims import Claim
    from reports.evidence import DATA
    from reports.render import write_report

    (found,) = options.sound([runs], as_json)
    page = write_report(found, out)
    document = json.loads(page.with_name(DATA).read_text(encoding="utf-8"))
    failed = [claim for claim in document["claims"] if claim["verdict"] == "fails"]
    lines = [
        *(printable(f"{Claim.from_json(one).failure} ({one['file']})") for one in failed),
        f"Is the difference acceptable? {document['answer']}",
        f"report: {page}",
    ]
    options.end(document, as_json, lambda: "\n".join(lines), not failed)
