"""Planting faults in several processes at once, each a few faults of one bench."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from parity.orphans import end_with_parent
from replication.faults.lookup import benches_of, chosen_faults
from replication.faults.runs import Notes, run_faults
from replication.process.refusals import LAST_LINES, check_status, status_of
from replication.process.threads import shared_cores

if TYPE_CHECKING:
    from parity.faults import Fault

FAULTS_OF_A_PROCESS = 32  # so that what frameworks keep of benches that are gone stays bounded


def run_in_processes(chosen: "Sequence[Fault]", notes: Notes, processes: int) -> None:
    """Notes the outcome of every fault that `notes` does not have, `processes` of them at a time.

    Every process gets its share of the cores. Raises InputError as `run_faults`, and RuntimeError
    where a process ends otherwise.
    """
    left = [one for one in chosen if one.id not in notes.outcomes]
    parts = parts_of(left, processes)
    if not parts:
        return
    children = _Children(len(chosen), len(notes.outcomes))
    environment = shared_cores(processes)
    with _kept(notes) as kept:
        with ThreadPoolExecutor(processes) as pool:
            tasks = [pool.submit(children.run, part, kept, environment) for part in parts]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                children.end()
                raise
        kept.read()
    notes.outcomes, notes.sound = kept.outcomes, kept.sound


def parts_of(left: "Sequence[Fault]", processes: int) -> list[list[str]]:
    """The ids of faults in parts for one process each, in the order in which they are begun.

    A part has faults of one bench, or of several small ones: every process starts both frameworks
    anew. It has at most `FAULTS_OF_A_PROCESS`, and small benches are together only as far as each
    of `processes` has as many of what is left, so that the last ones end at about the same time.
    """
    groups = []
    for bench in dict.fromkeys(one.bench for one in left):
        same = [one.id for one in left if one.bench == bench]
        count = -(-len(same) // FAULTS_OF_A_PROCESS)
        groups += [same[index::count] for index in range(count)]
    groups.sort(key=len, reverse=True)
    parts = []
    while groups:
        share = min(FAULTS_OF_A_PROCESS, -(-sum(map(len, groups)) // processes))
        part, others = groups[0], []
        for group in groups[1:]:
            if len(part) + len(group) <= share:
                part = part + group
            else:
                others.append(group)
        parts.append(part)
        groups = others
    return parts


@contextmanager
def _kept(notes: Notes) -> Iterator[Notes]:
    """Notes in a file that other processes can add to: the same, or where none is, for a while."""
    if notes.path is not None:
        yield notes
        return
    with tempfile.TemporaryDirectory() as folder:
        kept = replace(notes, path=Path(folder) / "outcomes.jsonl")
        kept.start()
        yield kept


class _Children:
    """The processes that run at the moment, and how many faults are known."""

    def __init__(self, total: int, known: int) -> None:
        self.total, self.known = total, known
        self.running: set[subprocess.Popen] = set()

    def end(self) -> None:
        """Ends all that run."""
        for child in list(self.running):
            child.kill()

    def run(self, ids: Sequence[str], notes: Notes, environment: dict[str, str]) -> None:
        """Runs one process to its end; what it says of a fault is said with a number of its own."""
        wanted = {"ids": ids, "case": dict(notes.case), "notes": str(notes.path)}
        said: list[str] = []
        with subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            encoding="utf-8",
            errors="replace",
        ) as child:
            self.running.add(child)
            child.stdin.write(json.dumps(wanted))
            child.stdin.close()
            for line in child.stderr:
                line = line.rstrip()
                said = [*said[1 - LAST_LINES :], line]
                mark, _, outcome = line.partition("] ")
                if mark.startswith("[") and mark[1:].replace("/", "").isdigit():
                    self.known += 1
                    print(f"[{self.known}/{self.total}] {outcome}", file=sys.stderr, flush=True)
            code = child.wait()
            self.running.discard(child)
        check_status(code, said, f"a process that planted {ids[0]}")


def main() -> int:
    """The faults that standard input names, in this process; 2 where the sound port fails."""
    end_with_parent()
    wanted = json.load(sys.stdin)
    case = wanted["case"]
    chosen = chosen_faults(wanted["ids"], case["catalogue"])
    notes = Notes(Path(wanted["notes"]), case)

    def plant() -> None:
        benches = benches_of(case["catalogue"])
        run_faults(chosen, case["config"], case["size"], benches, notes)

    return status_of(plant)


if __name__ == "__main__":
    sys.exit(main())
