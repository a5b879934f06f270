"""What isolation costs: an audit that runs every module alone, beside one that does not.

    python -m benchmarks.audit_cost --config tiny --config coco_r50 --rounds 3
    python -m benchmarks.audit_cost --config coco_r50 --size 640x640 --rounds 1

Both are whole audits, in turns and each in a process of its own: reading the weights, building both
models, every execution, inference and metrics. Seconds are those of the audit, without the imports
of the frameworks; memory is the process's peak resident set, imports included.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.rounds import Rounds

KINDS = {"audit": False, "audit --isolate": True}
LIMIT = 2.5  # times an audit without isolation
MOST_BYTES = 8e9  # resident, of a full-size audit


def measure(config: str, size: str, executions: tuple[str, ...], isolate: bool) -> dict[str, Any]:
    """One audit in this process: its verdict, seconds, peak memory in bytes, and those of steps."""
    import torch  # noqa: F401

    import tf_impl  # noqa: F401
    from maskformer.model import zoo
    from parity.steps import Steps
    from replication.forward.run import Request, audit

    request = Request(
        zoo.model_config(config),
        "seeded:0",
        size=size,
        executions=executions,
        isolate=isolate,
        command="python -m benchmarks.audit_cost",
    )
    steps = Steps(total=7 + len(executions) + isolate)
    begun = time.perf_counter()
    found = audit(request, steps)
    return {
        "verdict": found.verdict,
        "seconds": time.perf_counter() - begun,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "steps": dict(steps.timings),
    }


def compare(config: str, size: str, executions: str, rounds: int, kept: Rounds) -> dict[str, Any]:
    """Both kinds of audit of one configuration, in turns; medians, their ratio, all values."""
    child = [sys.executable, "-m", "benchmarks.audit_cost", "--config", config, "--size", size]
    child += ["--execution", executions]
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            out = subprocess.run(
                [*child, "--case", kind], check=True, stdout=subprocess.PIPE, text=True
            )
            found[kind].append(json.loads(out.stdout.splitlines()[-1]))
            kept.add(f"{config} {size}", kind, found[kind][-1]["seconds"])
    medians = {
        kind: statistics.median(one["seconds"] for one in values) for kind, values in found.items()
    }
    plain, isolated = medians.values()
    return {
        "config": config,
        "size": size,
        "executions": executions.split(","),
        "rounds": rounds,
        "median_seconds": medians,
        "ratio": isolated / plain,
        "limit": LIMIT,
        "most_bytes": MOST_BYTES,
        "peak_bytes": {
            kind: max(one["peak_bytes"] for one in values) for kind, values in found.items()
        },
        "all": found,
    }


def parse_arguments() -> argparse.Namespace:
    """The command line; `--case` serves the child processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", action="append", default=[], help="zoo name, repeatable")
    parser.add_argument("--size", default="128x160", help="HxW in pixels")
    parser.add_argument("--execution", default="eager,graph,xla", help="as of `parity audit`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", choices=KINDS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Prints medians, the ratio and the peaks of every configuration."""
    options = parse_arguments()
    if options.case:
        executions = tuple(options.execution.split(","))
        print(json.dumps(measure(options.config[0], options.size, executions, KINDS[options.case])))
        return
    kept = Rounds("audit_cost")
    results = [
        compare(config, options.size, options.execution, options.rounds, kept)
        for config in options.config or ["tiny", "coco_r50"]
    ]
    if options.json:
        print(json.dumps(results))
        return
    for one in results:
        print(f"{one['config']}, {one['size']}, {one['rounds']} rounds")
        for kind, seconds in one["median_seconds"].items():
            every = [value["seconds"] for value in one["all"][kind]]
            print(
                f"  {kind:16} {seconds:7.1f} s ({min(every):.1f} to {max(every):.1f}), "
                f"peak {one['peak_bytes'][kind] / 1e9:.2f} GB of {MOST_BYTES / 1e9:g}"
            )
        print(f"  isolation costs {one['ratio']:.2f}x, limit {one['limit']}x")


if __name__ == "__main__":
    main()
