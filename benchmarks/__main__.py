"""Every benchmark with an aim, one after the other, and one table: what `make bench` runs.

    python -m benchmarks --out runs/bench
    python -m benchmarks --out runs/bench --only forward train_step
    python -m benchmarks --out runs/bench --long

Alone on the machine, or the figures are worth nothing: the table says how many processes ran beside
them. Each run keeps its rounds in `OUT/rounds`, so that one that is interrupted loses none;
`--resume` runs only what has none. `OUT/timings.json` is evidence for `parity report`, and
`OUT/timings.md` the same as a table; both are written again after each run. No figure fails
anything: the exit status is 3 where a benchmark broke, and 0 otherwise. `--long` adds what takes
longer than all others together: whole audits, the catalogue of faults, the tests.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.aims import AIMS, RUNS, Aim, Run
from benchmarks.growth import series
from benchmarks.rounds import FILE, Round, read
from parity.files import replacing
from parity.provenance import cpu_model, provenance
from parity.records import write_json
from reports.chapters.timings import (
    Machine,
    Row,
    TimingsResult,
    figure,
    growth_table,
    is_met,
    rows_table,
)
from reports.document import Table

THREADS = 2


def machine() -> Machine:
    """The machine as it is now."""
    megahertz = None
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("cpu MHz")]
        megahertz = max((float(line.split(":")[1]) for line in lines), default=None)
    return Machine(
        processor=cpu_model(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        load=os.getloadavg()[0],
        megahertz=megahertz,
        threads=THREADS,
    )


def rounds_file(out: Path, run: str) -> Path:
    """Where a run keeps its rounds."""
    return out / "rounds" / f"{run.replace(':', '-')}.jsonl"


def execute(run: Run, out: Path) -> str:
    """Runs one benchmark; why it did not end as it should, or nothing."""
    environment = os.environ | {FILE: str(rounds_file(out, run.name).absolute())}
    try:
        done = subprocess.run(
            run.child(), env=environment, stdout=sys.stderr, timeout=run.seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it was ended after {run.seconds:g} s"
    # A benchmark that compares with a limit of its own says so by 1; it was measured all the same.
    return "" if done.returncode in (0, 1) else f"it ended with {done.returncode}"


def row(aim: Aim, run: Run, kept: Sequence[Round], reason: str) -> Row:
    """The figure of an aim from the rounds that its run kept."""
    rounds: dict[str, list[float]] = {}
    for one in kept:
        if one.case == aim.case and one.contestant in (aim.of, *aim.against):
            rounds.setdefault(one.contestant, []).append(one.value)
    found = {name: tuple(values) for name, values in rounds.items()}
    value = figure(found, aim.of, aim.against, aim.larger)
    return Row(
        name=aim.name,
        command=run.command,
        unit=aim.unit,
        of=aim.of,
        against=aim.against,
        aim=aim.aim,
        larger=aim.larger,
        rounds=found,
        value=value,
        met=is_met(value, aim.aim, aim.larger),
        reason="" if value is not None else reason or "it kept no round",
    )


def told(out: Path, runs: Sequence[Run], found: Machine, reasons: dict, begun: float) -> int:
    """Writes both tables of what was kept so far; the number of runs that broke."""
    named = {run.name: run for run in runs}
    rows = tuple(
        row(aim, named[aim.run], read(rounds_file(out, aim.run)), reasons.get(aim.run, ""))
        for aim in AIMS
        if aim.run in named
    )
    growth = tuple(series(rounds_file(out, "growth"))) if "growth" in named else ()
    result = TimingsResult(
        verdict="measured" if all(one.value is not None for one in rows) else "not all measured",
        command="make bench",
        provenance=provenance(),
        machine=found,
        rows=rows,
        growth=growth,
        seconds=round(time.perf_counter() - begun, 1),
    )
    write_json(result.to_json(), out, "timings.json")
    tables = [rows_table(rows)] if rows else []
    tables += [growth_table(growth)] if growth else []
    with replacing(out / "timings.md") as path:
        path.write_text("\n\n".join(map(markdown, tables)) + "\n", encoding="utf-8")
    return sum(bool(reason) for reason in reasons.values())


def markdown(table: Table) -> str:
    """A table as Markdown."""
    lines = [[one.title for one in table.columns], ["---"] * len(table.columns)]
    lines += [[cell.text for cell in cells] for cells in table.rows]
    return "\n".join(f"| {' | '.join(words)} |" for words in lines)


def main() -> None:
    """Runs the benchmarks in turn and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--only", nargs="+", choices=[run.name for run in RUNS])
    parser.add_argument("--long", action="store_true", help="also what takes very long")
    parser.add_argument("--resume", action="store_true", help="keep the rounds that are there")
    options = parser.parse_args()
    runs = [
        run
        for run in RUNS
        if (run.name in options.only if options.only else options.long or not run.long)
    ]
    out, found, begun, reasons = options.out, machine(), time.perf_counter(), {}
    for number, run in enumerate(runs, 1):
        if options.resume and read(rounds_file(out, run.name)):
            continue
        print(f"{number} of {len(runs)}: {run.command}", file=sys.stderr, flush=True)
        reasons[run.name] = execute(run, out)
        told(out, runs, found, reasons, begun)
    broke = told(out, runs, found, reasons, begun)
    print((out / "timings.md").read_text(encoding="utf-8"), end="")
    sys.exit(3 if broke else 0)


if __name__ == "__main__":
    main()
