"""What an audit of one model costs in each framework, beside the same in tf_keras.

    python -m benchmarks.frameworks --rounds 3

The model is the Mixer of the tests, whose port has no fault; a training step is compared too. Both
audits of a pair run one after the other, each in a process of its own; seconds are those of the
audit, every execution and every module alone, without the imports of the frameworks. An audit of
Keras 3 on TensorFlow may cost at most `LIMIT` times the same in tf_keras, in seconds of the
processor; the clock, which other jobs on the machine slow down, stands beside.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.rounds import Rounds

BASE = "tf_keras"
KINDS = ("keras tensorflow", "keras jax", "nnx", "linen")
LIMITED, LIMIT = "keras tensorflow", 1.5


def measure(kind: str, case: str, rounds: Rounds) -> dict[str, Any]:
    """What one audit found and its seconds, with the backend of Keras that the kind names."""
    environment = os.environ | {
        "KERAS_BACKEND": kind.partition(" ")[2] or "jax",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "parity_tests.parity.frameworks.mixers", kind, "none"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found = json.loads(run.stdout.splitlines()[-1])["none"]
    rounds.add(case, kind, found["processor"], "s of the processor")
    return found


def main() -> None:
    """Prints a line for each framework; status 1 where the limited one costs more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="pairs of audits of each framework")
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    options = parser.parse_args()
    over, rounds = False, Rounds("frameworks")
    for kind in options.kinds:
        pairs = [
            (measure(kind, kind, rounds), measure(BASE, kind, rounds))
            for _ in range(options.rounds)
        ]
        verdicts = {one["verdict"] for pair in pairs for one in pair}
        for what in ("seconds", "processor"):
            ratio = statistics.median(ours[what] / base[what] for ours, base in pairs)
            spent = statistics.median(ours[what] for ours, _ in pairs)
            name = {"seconds": "clock"}.get(what, what)
            print(f"{kind}: {spent:.1f} s of the {name}, {ratio:.2f} times {BASE}", flush=True)
        print(f"{kind}: {', '.join(sorted(verdicts))}")
        over = over or verdicts != {"equal"} or (kind == LIMITED and ratio > LIMIT)
    sys.exit(over)


if __name__ == "__main__":
    main()
