"""`parity faults`: how many faults the harness finds, and how rarely it cries wolf."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskformer.errors import InputError
from parity.claims import claim
from parity.judge import DEFAULT
from replication import options

if TYPE_CHECKING:
    from parity.faults import Fault, Score
    from replication.fault_runs import Notes

faults = typer.Typer(help="Measure the harness itself.", no_args_is_help=True)

SCHEMA = "maskformer-replication/fault-score/1"
CATALOGUE = "parity_tests.faults.catalogue"
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
    found = _catalogue(catalogue)
    told = ("id", "family", "stage", "what", "bench", "places", "causes", "imitates")
    described = [{name: getattr(one, name) for name in told} for one in found]
    options.end({"faults": described}, as_json, lambda: _print(found))


def _print(found: "Sequence[Fault]") -> None:
    from rich.table import Table

    from replication.tables import print_table

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
    as_json: options.AsJson = False,
) -> None:
    """Plant faults in the TensorFlow side, one after another, and see what the audit says.

    Exit status: 0 where all are detected, 95 % of them placed and 70 % explained; 1 where not; 2
    wrong usage.
    """
    from replication.fault_runs import NOTES, Notes

    _check_resume(resume, out)
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
        result = fault_score(chosen, notes, options.command_line())
    options.keep(result, out, "faults.json")
    options.end(result, as_json, lambda: _summary(result), result["verdict"] == "holds")


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


def chosen_faults(ids: Sequence[str] | None, catalogue: str = CATALOGUE) -> "list[Fault]":
    """The faults of these ids, None for all of a catalogue. Raises InputError for an unknown id."""
    known = {one.id: one for one in _catalogue(catalogue)}
    unknown = [one for one in ids or () if one not in known]
    if unknown:
        raise InputError(
            f"no fault is called {unknown[0]!r}",
            f"the catalogue has {len(known)}",
            "`parity faults list` shows them",
        )
    return [known[one] for one in ids] if ids else list(known.values())


def fault_score(chosen: "Sequence[Fault]", notes: "Notes", command: str) -> dict[str, Any]:
    """The result object (`SCHEMA`) of planting these faults one after another.

    `notes.case` has the configuration, the size and the catalogue; outcomes that it has are kept.
    Raises InputError where the sound port fails already.
    """
    from parity.faults import score
    from replication.fault_runs import run_faults

    config, size, catalogue = (notes.case[name] for name in ("config", "size", "catalogue"))
    begun = time.perf_counter()
    outcomes, sound = run_faults(chosen, config, size, _benches(catalogue), notes)
    total = score(outcomes)
    claims = score_claims(total, command)
    holds = all(one["verdict"] == "holds" for one in claims)
    return {
        "schema": SCHEMA,
        "config": config,
        "size": size,
        "verdict": "holds" if holds else "does not hold",
        "claims": claims,
        "score": vars(total),
        "criteria_on_the_sound_port": sound,
        "outcomes": [one.to_json() for one in outcomes],
        "seconds": round(time.perf_counter() - begun, 1),
        "command": command,
        "provenance": _provenance(),
    }


def _catalogue(module: str) -> "list[Fault]":
    """The faults of a catalogue, which is any importable module that has `FAULTS`."""
    from importlib import import_module

    try:
        return list(import_module(module).FAULTS)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{module} is no catalogue of faults",
            str(error),
            "name a module that has FAULTS, a sequence of parity.faults.Fault",
        ) from error


def _benches(module: str) -> dict[str, Any]:
    """The functions that build benches by name: those of the harness, and the catalogue's own."""
    from importlib import import_module

    from replication.fault_benches import BENCHES

    return {**BENCHES, **getattr(import_module(module), "BENCHES", {})}


def _provenance() -> dict[str, Any]:
    from parity.provenance import provenance

    return provenance()


def score_claims(total: "Score", command: str) -> list[dict[str, Any]]:
    """That every planted fault is detected, and most are placed and explained."""
    return [
        claim(
            "detected",
            "Every planted fault is detected",
            {"rule": "none", "of": total.faults, "found": list(total.undetected)},
            "planted faults at which no claim failed",
            command,
        ),
        *(
            claim(
                identity,
                f"Of {100 * getattr(DEFAULT, identity):g} % of the planted faults, {what}",
                {
                    "rule": "missed",
                    "of": total.faults,
                    "found": list(found),
                    "least": identity,
                },
                "share of the planted faults of which this is not so",
                command,
            )
            for identity, what, found in (
                ("placed", "the place that is named first is right", total.misplaced),
                ("explained", "the first cause that is given there is right", total.unexplained),
            )
        ),
    ]


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
    config: options.ConfigOrTiny = None,
    config_file: options.ConfigFile = None,
    execution: options.Execution = "eager,graph,xla",
    first_seed: Annotated[int, typer.Option(help="Seed of the first run.")] = 0,
    out: options.Out = None,
    resume: options.Resume = False,
    as_json: options.AsJson = False,
) -> None:
    """Audit the sound model over seeds, sizes, threads, executions, backbones, oneDNN on and off.

    Every alarm is false. Exit status: 0 no alarm, 1 at least one, 2 wrong usage.
    """
    from replication import clean_audits
    from replication.audit import parse_executions

    options.at_least_one("--runs", runs)
    _check_resume(resume, out)
    config = options.config_text(config, config_file, options.TINY)
    wanted = clean_audits.cases(runs, config, parse_executions(execution), first_seed)
    notes = None if out is None else out / clean_audits.NOTES
    with _interruptible(notes, f"{runs} audits"):
        outcomes = clean_audits.run_cases(wanted, notes, resume)
    result = clean_audits.result(outcomes, options.command_line())
    lines = [
        f"{runs} clean audits of {config}: {result['alarms']} alarms",
        f"the alarm rate is below {result['bound']:.2%} with 95 % confidence",
        *(f"alarm: {clean_audits.describe(one)}" for one in outcomes if one["verdict"] != "equal"),
    ]
    options.keep(result, out, "clean.json")
    options.end(result, as_json, lambda: "\n".join(lines), not result["alarms"])
