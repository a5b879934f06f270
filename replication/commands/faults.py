"""`parity faults`: how many faults the harness finds, and how rarely it cries wolf."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from parity.errors import InputError
from replication.faults.score import CATALOGUE, chosen_faults, fault_score, load_catalogue

faults = typer.Typer(help="Measure the harness itself.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds `parity faults list`, `run` and `clean`."""
    app.add_typer(faults, name="faults")


@faults.command("list", epilog="Example: parity faults list --json")
def show(
    catalogue: Annotated[str, typer.Option(help="Module that has FAULTS.")] = CATALOGUE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the catalogue: what each fault is, where it is planted, what it imitates."""
    found = load_catalogue(catalogue)
    if as_json:
        described = [
            {
                "id": one.id,
                "family": one.family,
                "stage": one.stage,
                "what": one.what,
                "bench": one.bench,
                "places": one.places,
                "causes": one.causes,
                "imitates": one.imitates,
            }
            for one in found
        ]
        print(json.dumps({"faults": described}, indent=1))
        return
    from rich.table import Table

    from replication.console.tables import print_table

    table = Table(title=f"{len(found)} faults that ports have")
    for column in ("id", "stage", "what is planted", "imitates"):
        table.add_column(column)
    for one in found:
        table.add_row(one.id, one.stage, one.what, one.imitates)
    print_table(table)


@faults.command("run", epilog="Example: parity faults run layer-norm-epsilon-1e-6 no-object-first")
def run(
    ids: Annotated[list[str] | None, typer.Argument(help="Faults, see `list`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Run the whole catalogue.")] = False,
    config: Annotated[str, typer.Option(help="Zoo configuration they are planted in.")] = "tiny",
    size: Annotated[str, typer.Option(help="HxW of the synthetic image.")] = "72x88",
    catalogue: Annotated[str, typer.Option(help="Module that has FAULTS.")] = CATALOGUE,
    out: Annotated[
        Path | None, typer.Option(help="Folder for faults.json, and for each outcome when known.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what is in --out, instead of starting anew.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Plant faults in the TensorFlow side, one after another, and see what the audit says.

    Exit status: 0 where all are detected, 95 % of them placed and 70 % explained; 1 where not; 2
    wrong usage.
    """
    from replication.faults.runs import NOTES, Notes

    _check_resume(resume, out)
    if every == bool(ids):
        raise InputError(
            "which faults?", "expected either names or --all", "`parity faults list` shows them"
        )
    chosen = chosen_faults(ids, catalogue)
    case = {"config": config, "size": size, "catalogue": catalogue}
    notes = Notes(None if out is None else out / NOTES, case)
    notes.read() if resume else notes.start()
    with _interruptible(notes.path, f"{len(chosen)} faults"):
        result = fault_score(chosen, notes, shlex.join(["parity", *sys.argv[1:]]))
    if out is not None:
        from parity.records import write_json

        write_json(result, out, "faults.json")
    print(json.dumps(result) if as_json else _summary(result))
    raise typer.Exit(0 if result["verdict"] == "holds" else 1)


def _check_resume(resume: bool, out: Path | None) -> None:
    if resume and out is None:
        raise InputError("--resume continues nothing", "no folder is given", "give --out FOLDER")


@contextmanager
def _interruptible(notes: Path | None, wanted: str) -> Iterator[None]:
    """Ctrl-C ends the program with 130, and says whether what is known of `wanted` is kept."""
    try:
        yield
    except KeyboardInterrupt:
        if notes is None:
            kept = "nothing is kept: without --out there is no folder for it"
            action = "give --out FOLDER, and what is known when a run is ended stays there"
        else:
            known = len(notes.read_text(encoding="utf-8").splitlines()) if notes.is_file() else 0
            kept = f"{known} finished entries are in {notes}"
            action = "repeat the command with --resume to go on from there"
        print(
            f"parity: interrupted before all {wanted} were run\n  {kept}\n  {action}",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None


def _summary(result: dict[str, Any]) -> str:
    """The score in a few lines, with what customary checks would have missed."""
    total, outcomes = result["score"], result["outcomes"]
    count = total["faults"]
    lines = [
        f"{count} faults planted, {total['detected']} detected ({total['detected'] / count:.1%})",
        f"place exact: {total['place_exact']} ({total['place_exact'] / count:.1%})",
        f"cause named: {total['cause_named']} ({total['cause_named'] / count:.1%})",
        f"seconds: {total['seconds']:.0f}",
    ]
    for name, missed in total["missed"].items():
        judged = sum(name in one["noticed"] for one in outcomes)
        sound = result["criteria_on_the_sound_port"]
        alarms = [bench for bench, noticed in sound.items() if noticed.get(name)]
        note = f"; alarms on the sound port too ({', '.join(alarms)})" if alarms else ""
        lines.append(f"{name}: misses {missed} of {judged}{note}")
    for title, key in (
        ("not detected", "undetected"),
        ("misplaced", "misplaced"),
        ("not explained", "unexplained"),
    ):
        if total[key]:
            lines.append(f"{title}: {', '.join(total[key])}")
    return "\n".join(lines)


@faults.command("clean", epilog="Example: parity faults clean --runs 20 --out runs/clean")
def clean(
    runs: Annotated[int, typer.Option(help="How many clean audits.")] = 20,
    config: Annotated[str, typer.Option(help="Name of a zoo configuration.")] = "tiny",
    execution: Annotated[str, typer.Option(help="eager, graph, xla; one for each audit.")] = (
        "eager,graph,xla"
    ),
    first_seed: Annotated[int, typer.Option(help="Seed of the first run.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for clean.json, and for each audit when known.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what is in --out, instead of starting anew.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Audit the sound model over seeds, sizes, threads, executions, backbones, oneDNN on and off.

    Every alarm is false. Exit status: 0 no alarm, 1 at least one, 2 wrong usage.
    """
    from maskformer.model import zoo
    from parity.records import write_json
    from replication.commands.audit import parse_executions
    from replication.faults import clean as clean_audits

    if runs < 1:
        raise InputError(f"--runs is {runs}", "expected at least 1")
    _check_resume(resume, out)
    zoo.model_config(config)
    wanted = clean_audits.cases(runs, config, parse_executions(execution), first_seed)
    notes = None if out is None else out / clean_audits.NOTES
    with _interruptible(notes, f"{runs} audits"):
        outcomes = clean_audits.run_cases(wanted, notes, resume)
    result = clean_audits.result(outcomes, shlex.join(["parity", *sys.argv[1:]]))
    if out is not None:
        write_json(result, out, "clean.json")
    if as_json:
        print(json.dumps(result))
    else:
        print(f"{runs} clean audits of {config}: {result['alarms']} alarms")
        print(f"the alarm rate is below {result['bound']:.2%} with 95 % confidence")
        for one in outcomes:
            if one["verdict"] != "equal":
                print(f"alarm: {clean_audits.describe(one)}")
    raise typer.Exit(1 if result["alarms"] else 0)
