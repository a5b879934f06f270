"""`parity report`: one report from the results that other commands recorded; no model runs."""

import json
from pathlib import Path
from typing import Annotated

import typer


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
    out: Annotated[Path, typer.Option(help="Folder for the report.", metavar="DIR")],
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json.")] = False,
) -> None:
    """Report on recorded results: report.html, report.md, report.json, and the evidence itself.

    Exit status: 0 nothing that was run fails, 1 a claim fails, 2 wrong usage or input.
    """
    from parity.claims import failure
    from reports.loading import load
    from reports.render import DATA, write_report

    page = write_report(load(runs), out)
    text = page.with_name(DATA).read_text(encoding="utf-8")
    document = json.loads(text)
    failed = [claim for claim in document["claims"] if claim["verdict"] == "fails"]
    if as_json:
        print(text, end="")
    else:
        for claim in failed:
            print(f"{failure(claim)} ({claim['file']})")
        print(f"Is the difference acceptable? {document['answer']}")
        print(f"report: {page}")
    raise typer.Exit(1 if failed else 0)
