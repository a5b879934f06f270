"""What a user waits for first: help, the start of a verb, a verdict, a file looked into.

    python -m benchmarks.first_value --rounds 5
    python -m benchmarks.first_value --rounds 5 --demo

With `--demo` a whole `parity demo` is run once in a folder of its own: seconds until its first
verdict (a whole model, forward, float64 and float32) and until its end.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.rounds import Rounds

FIRST = "first verdict: "
BYTES = 10**9  # of the file that is looked into
TENSORS = 250


def parity(*words: str) -> list[str]:
    """The command line of a verb, in this Python."""
    return [sys.executable, "-m", "replication.cli", *words]


def large_file(path: Path) -> None:
    """Writes `BYTES` bytes of float32 in `TENSORS` tensors of a MaskFormer-like naming."""
    from safetensors.numpy import save_file

    each = np.zeros(BYTES // 4 // TENSORS, np.float32)
    save_file({f"backbone.layers.{index}.weight": each for index in range(TENSORS)}, path)


def measure(rounds: Rounds, count: int, folder: Path) -> None:
    """Seconds of whole processes, in turns."""
    large_file(folder / "large.safetensors")
    commands = {
        "help": ("--help",),
        "start of a verb": ("zoo", "tiny", "--json"),
        "inspect 1 GB": ("inspect", str(folder / "large.safetensors"), "--json"),
    }
    for _ in range(count):
        for name, words in commands.items():
            begun = time.perf_counter()
            subprocess.run(parity(*words), stdout=subprocess.DEVNULL, check=False)
            rounds.add("start", name, time.perf_counter() - begun)


def measure_demo(rounds: Rounds, folder: Path) -> None:
    """Seconds of a demo until its first verdict, and until its end.

    Raises SystemExit where it does not end with all claims.
    """
    begun = time.perf_counter()
    run = subprocess.Popen(
        parity("demo", "--out", str(folder / "demo")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in run.stderr:
        print(line, end="", file=sys.stderr, flush=True)
        if line.startswith(FIRST):
            rounds.add("demo", "first verdict", time.perf_counter() - begun)
    if run.wait() != 0:
        raise SystemExit(f"the demo ended with {run.returncode}")
    rounds.add("demo", "complete", time.perf_counter() - begun)


def main() -> None:
    """Prints and keeps every round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--demo", action="store_true", help="run `parity demo` as well")
    options = parser.parse_args()
    rounds, folder = Rounds("first_value"), Path(tempfile.mkdtemp(prefix="first-value-"))
    try:
        measure(rounds, options.rounds, folder)
        if options.demo:
            measure_demo(rounds, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
