"""`parity faults`: how many faults the harness finds, and how rarely it cries wolf."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity.errors import InputError
from replication.commands import options
from replication.console import endings
from replication.console.signals import Terminated
from replication.faults.lookup import CATALOGUE, chosen_faults, load_catalogue

if TYPE_CHECKING:
    from parity.faults import Fault
    from reports.chapters.faults import FaultScoreResult

faults = typer.Typer(help="Measure the harness itself.", no_args_is_help=True)

Catalogue = Annotated[str, typer.Option(help="Module that has FAULTS.")]


def register(app: typer.Typer) -> None:
    """Adds `parity faults list`, `run` and `clean`."""
    app.add_typer(faults, name="faults")


@faults.command("list", epilog="Example: parity faults list --json")
def show(
    catalogue: Catalogue = CATALOGUE,
    as_json: options.AsJson = False,
) -> None:
    """List the catalogue: what each fault is, where it is planted, what it imitates."""
    found = load_catalogue(catalogue)
    told = ("id", "family", "stage", "what", "bench", "places", "causes", "imitates")
    described = [{name: getattr(one, name) for name in told} for one in found]
    options.end({"faults": described}, as_json, lambda: _print(found), name="faults")


def _print(found: "Sequence[Fault]") -> None:
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
    config: options.ConfigOrTiny = None,
    config_file: options.ConfigFile = None,
    size: options.Size = "72x88",
    catalogue: Catalogue = CATALOGUE,
    out: options.Out = None,
    resume: options.Resume = False,
    processes: Annotated[int, typer.Option(help="How many plant faults at once.")] = 1,
    as_json: options.AsJson = False,
) -> None:
    """Plant faults in the TensorFlow side, one after another, and see what the audit says.

    Exit status: 0 where all are detected, 95 % of them placed and 70 % explained; 1 where not; 2
    wrong usage.
    """
    from replication.faults.runs import NOTES, Notes
    from replication.faults.score import fault_score

    _check_resume(resume, out)
    options.at_least_one("--processes", processes)
    if every == bool(ids):
        raise InputError(
            "which faults?", "expected either names or --all", "`parity faults list` shows them"
        )
    chosen = chosen_faults(ids, catalogue)
    config = options.config_text(config, config_file, options.TINY)
    case = {"config": config, "size": size, "catalogue": catalogue}
    notes = Notes(None if out is None else out / NOTES, case)
    notes.read() if resume else notes.start()
    with _interruptible(notes.path, f"{len(chosen)} faults"):
        result = fault_score(chosen, notes, options.command_line(), processes)
    options.keep(result, out, "faults.json")
    options.end(result, as_json, lambda: _summary(result), result.verdict == "holds")


def _check_resume(resume: bool, out: Path | None) -> None:
    if resume and out is None:
        raise InputError("--resume continues nothing", "no folder is given", "give --out FOLDER")


@contextmanager
def _interruptible(notes: Path | None, wanted: str) -> Iterator[None]:
    """An interruption ends the program, and says whether what is known of `wanted` is kept."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as error:
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
        raise typer.Exit(endings.status_of(error)) from None


def _summary(result: "FaultScoreResult") -> str:
    """The score in a few lines, with what customary checks would have missed."""
    total, outcomes = result.score, result.outcomes
    count = total.faults
    lines = [
        f"{count} faults planted, {total.detected} detected ({total.detected / count:.1%})",
        f"place exact: {total.place_exact} ({total.place_exact / count:.1%})",
        f"cause named: {total.cause_named} ({total.cause_named / count:.1%})",
        f"seconds: {total.seconds:.0f}",
    ]
    for name, missed in total.missed.items():
        judged = sum(name in one.noticed for one in outcomes)
        sound = result.criteria_on_the_sound_port
        alarms = [bench for bench, noticed in sound.items() if noticed.get(name)]
        note = f"; alarms on the sound port too ({', '.join(alarms)})" if alarms else ""
        lines.append(f"{name}: misses {missed} of {judged}{note}")
    for title, key in (
        ("not detected", "undetected"),
        ("misplaced", "misplaced"),
        ("not explained", "unexplained"),
    ):
        if found := getattr(total, key):
            lines.append(f"{title}: {', '.join(found)}")
    return "\n".join(lines)


@faults.command("clean", epilog="Example: parity faults clean --runs 20 --out runs/clean")
def clean(
    runs: Annotated[int, typer.Option(help="How many clean audits.")] = 20,
    config: options.ConfigOrTiny = None,
    config_file: options.ConfigFile = None,
    execution: options.Execution = "eager,graph,xla",
    first_seed: Annotated[int, typer.Option(help="Seed of the first run.")] = 0,
    odd: Annotated[
        bool,
        typer.Option("--odd", help="Scaled weights, extreme images, of ten configurations."),
    ] = False,
    out: options.Out = None,
    resume: options.Resume = False,
    as_json: options.AsJson = False,
) -> None:
    """Audit the sound model over seeds, sizes, threads, executions, backbones, oneDNN on and off.

    Every alarm is false. Exit status: 0 no alarm, 1 at least one, 2 wrong usage.
    """
    from replication.commands.audit import parse_executions
    from replication.faults import clean as clean_audits

    options.at_least_one("--runs", runs)
    _check_resume(resume, out)
    executions = parse_executions(execution)
    if odd and (config is not None or config_file is not None):
        raise InputError(
            "--odd has configurations of its own",
            f"{len(clean_audits.ODD)}: {', '.join(clean_audits.ODD)}",
            "leave --config out",
        )
    if odd:
        wanted = clean_audits.odd_cases(runs, executions, first_seed)
        config = f"{len({one.config for one in wanted})} configurations"
    else:
        config = options.config_text(config, config_file, options.TINY)
        wanted = clean_audits.cases(runs, config, executions, first_seed)
    notes = None if out is None else out / clean_audits.NOTES
    with _interruptible(notes, f"{runs} audits"):
        outcomes = clean_audits.run_cases(wanted, notes, resume)
    result = clean_audits.result(outcomes, options.command_line())
    lines = [
        f"{runs} clean audits of {config}: {result.alarms} alarms",
        f"the alarm rate is below {result.bound:.2%} with 95 % confidence",
        *(f"alarm: {clean_audits.describe(one)}" for one in outcomes if one.failed),
        *(
            f"not decided: {clean_audits.describe(one)}"
            for one in outcomes
            if one.undecided and not one.failed
        ),
    ]
    options.keep(result, out, "clean.json")
    options.end(result, as_json, lambda: "\n".join(lines), not result.alarms)
