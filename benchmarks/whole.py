"""How long the two longest commands take: the catalogue of faults, and the tests.

python -m benchmarks.whole faults
python -m benchmarks.whole tests
"""

import argparse
import subprocess
import sys
import tempfile
import time

from benchmarks.rounds import Rounds

COMMANDS = {
    "faults": [sys.executable, "-m", "replication.cli", "faults", "run", "--all", "--out"],
    "tests": [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--basetemp"],
}


def main() -> None:
    """Prints and keeps the seconds of one command; ends as it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=COMMANDS)
    options = parser.parse_args()
    rounds = Rounds("whole")
    with tempfile.TemporaryDirectory(prefix="whole-") as folder:
        begun = time.perf_counter()
        done = subprocess.run([*COMMANDS[options.what], f"{folder}/out"], check=False)
        rounds.add("whole", options.what, time.perf_counter() - begun)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
