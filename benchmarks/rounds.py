"""The rounds of a benchmark: each is printed and kept as it ends, so that no interruption loses it.

They are lines of JSON in the file that the variable BENCHMARK_ROUNDS names, and without it in
`runs/benchmarks/NAME.jsonl`. A run begins its file anew.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "BENCHMARK_ROUNDS"


@dataclass(frozen=True)
class Round:
    """What one round gave: of which case, whose, how much, in which unit."""

    case: str
    contestant: str
    value: float
    unit: str


class Rounds:
    """Prints and keeps the rounds of one benchmark, `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path(os.environ.get(FILE) or Path("runs", "benchmarks", f"{name}.jsonl"))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("", encoding="utf-8")

    def add(self, case: str, contestant: str, value: float, unit: str = "s") -> float:
        """Prints and keeps one value, and returns it."""
        one = Round(case, contestant, float(value), unit)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(one)) + "\n")
        print(f"{self.name}, {case}: {contestant} {value:.4g} {unit}", file=sys.stderr, flush=True)
        return value


def read(path: Path) -> list[Round]:
    """The rounds that were kept in a file, in order; none where there is no file."""
    if not path.is_file():
        return []
    return [Round(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
