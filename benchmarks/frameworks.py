"""What an audit of one model costs in each framework, beside the same in tf_keras.

    python -m benchmarks.frameworks --depth 8 --rounds 3

The model is a Mixer whose port has no fault. Both sides of a pair of audits run one after the
other, each in a process of its own, in turns; seconds are those of the audit, every execution and
every module alone, without the imports of the frameworks. An audit of Keras 3 on TensorFlow may
cost at most `LIMIT` times the same in tf_keras.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

BASE = "tf_keras"
KINDS = ("keras tensorflow", "keras jax", "nnx", "linen")
LIMITED, LIMIT = "keras tensorflow", 1.5


def measure(kind: str, depth: int) -> dict[str, Any]:
    """One audit in this process: its verdict, its seconds and those of its steps."""
    import parity
    from parity_tests.parity.frameworks import mixers

    mixers.DEPTH = depth
    pair = mixers.pair(kind)
    mixers.port(kind, mixers.CLEAN)
    start = time.perf_counter()
    found = parity.audit(pair, isolate=True, quiet=True).to_json()
    seconds = time.perf_counter() - start
    return {"verdict": found["verdict"], "seconds": seconds, "steps": found["timings"]}


def in_process(kind: str, depth: int) -> dict[str, Any]:
    """The same in a process of its own, with the backend of Keras that the kind names."""
    environment = os.environ | {
        "KERAS_BACKEND": kind.partition(" ")[2] or "jax",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "benchmarks.frameworks", "--one", kind, "--depth", str(depth)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    """Prints a line for each framework; status 1 where the limited one costs more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=8, help="blocks of the Mixer")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of audits of each framework")
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.depth)))
        return
    over = False
    for kind in options.kinds:
        pairs = [
            (in_process(kind, options.depth), in_process(BASE, options.depth))
            for _ in range(options.rounds)
        ]
        ratios = [ours["seconds"] / base["seconds"] for ours, base in pairs]
        verdicts = {one["verdict"] for pair in pairs for one in pair}
        ratio = statistics.median(ratios)
        seconds = statistics.median(ours["seconds"] for ours, _ in pairs)
        print(f"{kind}: {seconds:.1f} s, {ratio:.2f} times {BASE} {sorted(verdicts)}")
        over = over or verdicts != {"equal"} or (kind == LIMITED and ratio > LIMIT)
    sys.exit(over)


if __name__ == "__main__":
    main()
