"""`parity faults`: how many faults the harness finds, and how rarely it cries wolf."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskformer.errors import InputError
from parity.claims import claim
from parity.judge import DEFAULT

if TYPE_CHECKING:
    from parity.faults import Fault, Outcome, Score

faults = typer.Typer(help="Measure the harness itself.", no_args_is_help=True)

SCHEMA = "maskformer-replication/fault-score/1"
CATALOGUE = "parity_tests.faults.catalogue"
SIZES = ("64x96", "70x90", "97x131", "33x64", "128x96")
THREADS = (1, 2)


def register(app: typer.Typer) -> None:
    """Adds `parity faults list`, `run` and `clean`."""
    app.add_typer(faults, name="faults")


@faults.command("list", epilog="Example: parity faults list --json")
def show(
    catalogue: Annotated[str, typer.Option(help="Module that has FAULTS.")] = CATALOGUE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the catalogue: what each fault is, where it is planted, what it imitates."""
    found = _catalogue(catalogue)
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
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(found)} faults that ports have")
    for column in ("id", "stage", "what is planted", "imitates"):
        table.add_column(column)
    for one in found:
        table.add_row(one.id, one.stage, one.what, one.imitates)
    Console().print(table)


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
    from parity.faults import score
    from replication.fault_runs import NOTES, Notes, run_faults

    if resume and out is None:
        raise InputError("--resume continues nothing", "no folder is given", "give --out FOLDER")
    known = {one.id: one for one in _catalogue(catalogue)}
    unknown = [one for one in ids or () if one not in known]
    if unknown:
        raise InputError(
            f"no fault is called {unknown[0]!r}",
            f"the catalogue has {len(known)}",
            "`parity faults list` shows them",
        )
    if every == bool(ids):
        raise InputError(
            "which faults?", "expected either names or --all", "`parity faults list` shows them"
        )
    chosen = [known[one] for one in ids] if ids else list(known.values())
    begun = time.perf_counter()
    case = {"config": config, "size": size, "catalogue": catalogue}
    notes = Notes(None if out is None else out / NOTES, case)
    notes.read() if resume else notes.start()
    outcomes, sound = run_faults(chosen, config, size, _benches(catalogue), notes)
    total = score(outcomes)
    words = shlex.join(["parity", *sys.argv[1:]])
    claims = score_claims(total, words)
    holds = all(one["verdict"] == "holds" for one in claims)
    result = {
        "schema": SCHEMA,
        "config": config,
        "size": size,
        "verdict": "holds" if holds else "does not hold",
        "claims": claims,
        "score": vars(total),
        "criteria_on_the_sound_port": sound,
        "outcomes": [one.to_json() for one in outcomes],
        "seconds": round(time.perf_counter() - begun, 1),
        "command": words,
        "provenance": _provenance(),
    }
    if out is not None:
        from replication.audit import write_json

        write_json(result, out, "faults.json")
    print(json.dumps(result) if as_json else _summary(outcomes, total, sound))
    raise typer.Exit(0 if holds else 1)


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


def _summary(
    outcomes: "Sequence[Outcome]", total: "Score", sound: dict[str, dict[str, bool]]
) -> str:
    """The score in a few lines, with what customary checks would have missed."""
    count = total.faults
    lines = [
        f"{count} faults planted, {total.detected} detected ({total.detected / count:.1%})",
        f"place exact: {total.place_exact} ({total.place_exact / count:.1%})",
        f"cause named: {total.cause_named} ({total.cause_named / count:.1%})",
        f"seconds: {total.seconds:.0f}",
    ]
    for name, missed in total.missed.items():
        judged = sum(name in one.noticed for one in outcomes)
        alarms = [bench for bench, noticed in sound.items() if noticed.get(name)]
        note = f"; alarms on the sound port too ({', '.join(alarms)})" if alarms else ""
        lines.append(f"{name}: misses {missed} of {judged}{note}")
    for title, names in (
        ("not detected", total.undetected),
        ("misplaced", total.misplaced),
        ("not explained", total.unexplained),
    ):
        if names:
            lines.append(f"{title}: {', '.join(names)}")
    return "\n".join(lines)


def upper_bound(alarms: int, runs: int) -> float:
    """The exact one-sided 95 % upper bound of the alarm rate (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    return 1.0 if alarms == runs else float(beta.ppf(0.95, alarms + 1, runs - alarms))


@faults.command("clean", epilog="Example: parity faults clean --runs 20")
def clean(
    runs: Annotated[int, typer.Option(help="How many clean audits.")] = 20,
    config: Annotated[str, typer.Option(help="Name of a zoo configuration.")] = "tiny",
    execution: Annotated[str, typer.Option(help="eager, graph, xla.")] = "eager,graph",
    first_seed: Annotated[int, typer.Option(help="Seed of the first run.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Audit the sound model over seeds, image sizes, batch sizes and thread counts.

    Every alarm is false. Exit status: 0 no alarm, 1 at least one, 2 wrong usage.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from maskformer import zoo
    from replication.audit import parse_executions

    if runs < 1:
        raise InputError(f"--runs is {runs}", "expected at least 1")
    zoo.model_config(config)
    executions = parse_executions(execution)
    cases = [
        {
            "config": config,
            "seed": first_seed + index,
            "size": SIZES[index % len(SIZES)],
            "batch": 1 + index // len(SIZES) % 2,
            "executions": executions,
            "threads": THREADS[index % len(THREADS)],
        }
        for index in range(runs)
    ]
    outcomes = []
    # A process per thread count: TensorFlow fixes its threads when it starts.
    for threads in THREADS:
        same = [case for case in cases if case["threads"] == threads]
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            for outcome in pool.map(_audit_once, same):
                outcomes.append(outcome)
                print(f"[{len(outcomes)}/{runs}] {_describe(outcome)}", file=sys.stderr, flush=True)
    alarms = [one for one in outcomes if one["verdict"] != "equal"]
    bound = upper_bound(len(alarms), runs)
    if as_json:
        print(json.dumps({"runs": runs, "alarms": len(alarms), "bound": bound, "cases": outcomes}))
    else:
        print(f"{runs} clean audits of {config}: {len(alarms)} alarms")
        print(f"the alarm rate is below {bound:.1%} with 95 % confidence")
        for one in alarms:
            print(f"alarm: {_describe(one)}")
    raise typer.Exit(1 if alarms else 0)


def _describe(outcome: dict[str, Any]) -> str:
    case = outcome["case"]
    ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in outcome["float32"].items())
    return (
        f"seed {case['seed']}, {case['batch']} x {case['size']}, {case['threads']} threads: "
        f"{outcome['verdict']}, float64 at {outcome['float64']:.2f} of its limit, ratios {ratios}"
    )


def _audit_once(case: dict[str, Any]) -> dict[str, Any]:
    """One clean audit in its own process: the verdict and the margins."""
    from maskformer import zoo
    from replication.audit import set_threads
    from replication.audit_run import Request, audit
    from replication.progress import Steps

    set_threads(case["threads"])
    request = Request(
        config=zoo.model_config(case["config"]),
        weights=f"seeded:{case['seed']}",
        size=case["size"],
        batch=case["batch"],
        executions=tuple(case["executions"]),
        command="parity faults clean",
    )
    result = audit(request, Steps(total=0, quiet=True))
    nearest = result["float64"]["nearest_to_limit"]
    return {
        "case": case,
        "verdict": result["verdict"],
        "float64": float(nearest["value"]) / float(nearest["limit"]),
        "float32": {name: float(one["worst_ratio"]) for name, one in result["float32"].items()},
        "failed_claims": [c["title"] for c in result["claims"] if c["verdict"] == "fails"],
    }
