"""`parity faults`: how rarely the harness cries wolf."""

import json
import sys
from typing import Annotated, Any

import typer

from maskformer.errors import InputError

faults = typer.Typer(help="Measure the harness itself.", no_args_is_help=True)

SIZES = ("64x96", "70x90", "97x131", "33x64", "128x96")
THREADS = (1, 2)


def register(app: typer.Typer) -> None:
    """Adds `parity faults clean`."""
    app.add_typer(faults, name="faults")


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
    from replication.audit import Request, audit, set_threads
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
