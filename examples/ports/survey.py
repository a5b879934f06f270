"""Audits every case of `examples.ports.study`: `python -m examples.ports.survey --out DIR`.

Each case runs in a process of its own, with a limit of time and of memory, and keeps its result, so
that an interrupted survey goes on where it was. `survey.json` and `survey.md` say of each case:
equal, different, with places, causes, sizes and whether its mend makes it equal, or not comparable
and why.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # for ports in Keras 2

import numpy as np
import psutil

from examples.ports.study import CASES, Study
from parity import save
from parity.auditing.options import NOT_VERIFIED, Options, Runs
from parity.auditing.result import AuditResult
from parity.audits import audit_with
from parity.calls import flatten, is_array
from parity.claims import Claim
from parity.errors import InputError
from parity.files import replacing
from parity.records import parts, plain, typed, write_json
from parity.steps import Budget, Steps

SECONDS, GIGABYTES = 300.0, 6.0
SEARCH = Budget.of_text("60s,10s")
COMMAND = "python -m examples.ports.survey --out DIR"
DECISIONS = "decisions.json"
WATCHED = 0.5  # seconds between two looks at a case's memory


@dataclass(frozen=True)
class Found:
    """What the survey says of one case.

    Args:
        name, expected: the case, and what is known to differ.
        refused: what is known to prevent the comparison.
        verdict: equal, different, or not comparable.
        why: the places and causes, or what prevented the comparison.
        gap: the largest float64 gap, relative l2; `mended` is that of the mended pair.
        ratio: the largest float32 error in units of the reference's own.
        changed, decided: at how many places of the first output another number of the last axis
            (of images: another channel) is the largest, both in float32, and at how many it could.
        trained: whether a training step was compared as well.
        kept: casts to float32 that were kept in float64 on either side.
        proven: whether the mended pair is equal; None without a mend.
        seconds, gigabytes: that the case took, at most at once.
    """

    name: str
    expected: str
    verdict: str
    why: tuple[str, ...] = ()
    gap: float | None = None
    mended: float | None = None
    ratio: float | None = None
    changed: int | None = None
    decided: int | None = None
    trained: bool = False
    refused: str = ""
    kept: int = 0
    proven: bool | None = None
    seconds: float = 0.0
    gigabytes: float = 0.0

    @property
    def as_known(self) -> bool:
        """Whether it is what is known of the case, and a difference with a mend is proven."""
        if self.refused:
            return self.verdict == "not comparable" and self.refused in self.why[0]
        known = "different" if self.expected else "equal"
        return self.verdict == known and self.proven is not False


def measure(name: str, folder: Path) -> None:
    """Audits one case, and its mended pair where it has a mend; keeps the results in `folder`."""
    case = CASES[name]
    for part, mended in (("", False), ("mended", True)):
        if not mended or case.mend is not None:
            save(_audited(case, mended, folder / part), folder / part)


def _audited(case: Study, mended: bool, folder: Path) -> AuditResult:
    pair = case.pair(mended=mended)

    def decisions(runs: Runs) -> Sequence[Claim]:
        found = decided(runs.reference32, runs.port32.get("eager"))
        write_json(dict(zip(("changed", "decided"), found, strict=True)), folder, DECISIONS)
        return ()

    training = case.training and case.training(pair)
    options = Options(
        ("eager",),
        search=SEARCH,
        training=training,
        claims=decisions,
        command=COMMAND,
        not_verified=NOT_VERIFIED[training is not None :],
    )
    return audit_with(pair, options, Steps())


def decided(reference: Any, port: Any) -> tuple[int | None, int | None]:
    """At how many places of the reference's first output the largest number is another one in the
    port's output of the same size, and at how many there is one; None where there is no such."""
    ours = [array for _, array in flatten(reference, is_array)[1] if array.ndim > 1]
    theirs = [array for _, array in flatten(port, is_array)[1] if array.ndim > 1]
    for one in ours[:1]:
        images = one.ndim == 4
        sizes = {one.shape, (one.shape[0], *one.shape[2:], one.shape[1])} if images else {one.shape}
        for other in (array for array in theirs if array.shape in sizes):
            mine = one.argmax(1 if images else -1)
            its = other.argmax(1 if images and other.shape == one.shape else -1)
            return int(np.count_nonzero(mine != its)), mine.size
    return None, None


def survey(
    names: Sequence[str], out: Path, seconds: float, gigabytes: float, processes: int = 1
) -> list[Found]:
    """All cases, those that `out` has already not again, `processes` of them at once; prints a line
    for each."""

    def found(name: str) -> Found:
        folder = out / name.replace(", ", "-").replace(" ", "-")
        kept = folder / "found.json"
        if not kept.is_file():
            one = _run(name, folder, seconds, gigabytes)
            write_json(parts(one), folder, kept.name)
        return typed(Found, json.loads(kept.read_text(encoding="utf-8")))

    every = []
    with ThreadPoolExecutor(processes) as pool:
        for one in pool.map(found, names):
            every.append(one)
            print(f"[{len(every)}/{len(names)}] {_line(one)}", flush=True)
    return every


def _run(name: str, folder: Path, seconds: float, gigabytes: float) -> Found:
    started, most = time.monotonic(), 0.0
    command = [sys.executable, "-m", "examples.ports.survey", "--one", name, "--out", str(folder)]
    environment = {**os.environ, "KERAS_BACKEND": CASES[name].backend}
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"  # in a file, since a pipe that nobody reads stops a process
    with (
        log.open("w", encoding="utf-8") as said,
        subprocess.Popen(command, stderr=said, stdout=said, env=environment) as child,
    ):
        stopped = ""
        while child.poll() is None and not stopped:
            most = max(most, _memory(child.pid))
            if time.monotonic() - started > seconds:
                stopped = f"stopped after {seconds:.0f} s"
            elif most > gigabytes:
                stopped = f"stopped at {most:.1f} GB"
            time.sleep(WATCHED)
        if stopped:
            child.kill()
    if stopped or child.returncode:
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        why = (stopped, *last)[not stopped :]
        refused = CASES[name].refused
        found = Found(name, CASES[name].differs, "not comparable", why, refused=refused)
    else:
        found = told(name, folder)
    seconds = round(time.monotonic() - started, 1)
    return replace(found, seconds=seconds, gigabytes=round(most, 2))


def told(name: str, folder: Path) -> Found:
    """What the results in a case's folder say of it."""
    case = CASES[name]
    plainly, mended = (_result(folder / part) for part in ("", "mended"))
    return Found(
        name,
        case.differs,
        plainly.verdict,
        _why(plainly),
        plainly.float64.worst_gap,
        mended and mended.float64.worst_gap,
        max((one.worst_ratio for one in plainly.float32.values()), default=None),
        trained=case.training is not None,
        refused=case.refused,
        kept=len(plainly.kept_in_float64),
        proven=None if mended is None else mended.verdict == "equal",
        **json.loads((folder / DECISIONS).read_text(encoding="utf-8")),
    )


def _why(result: AuditResult) -> tuple[str, ...]:
    """The places at fault with their causes, and the claims that fail for another reason."""
    places = [one.headline for one in result.localisations]
    for one in result.claims:
        follows = one.id.startswith(("same_", "production_")) or (
            one.place is not None and one.place.inherited
        )
        if not one.holds and not follows:
            where = f"{one.id}: {one.place.text if one.place else one.title}"
            places.append(f"{where}: {one.cause}" if one.cause else where)
    return tuple(places)


def _memory(process: int) -> float:
    """Resident memory in GB; 0 of a process that has ended."""
    try:
        return psutil.Process(process).memory_info().rss / 1e9
    except psutil.NoSuchProcess:
        return 0.0


def _result(folder: Path) -> AuditResult | None:
    file = folder / "audit.json"
    if not file.is_file():
        return None
    return AuditResult.from_json(json.loads(file.read_text(encoding="utf-8")), str(file))


def _line(one: Found) -> str:
    proven = {None: "", True: "; equal when mended", False: "; NOT equal when mended"}[one.proven]
    surprise = "" if one.as_known else f" (expected: {one.expected or one.refused or 'equal'})"
    return f"{one.name}: {one.verdict}{surprise}, {len(one.why)} places{proven}, {one.seconds} s"


def table(found: Iterable[Found]) -> str:
    """The survey as Markdown."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.1e}"

    rows = [
        "| case | verdict | float64 gap | mended | float32 ratio | largest is another | "
        "kept in float64 | places | first place |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows += [
        f"| {one.name}{', trained' if one.trained else ''} | {one.verdict} | "
        f"{number(one.gap)} | {number(one.mended)} | "
        f"{'' if one.ratio is None else f'{one.ratio:.2f}'} | "
        f"{'' if one.changed is None else f'{one.changed} of {one.decided}'} | {one.kept} | "
        f"{len(one.why) or ''} | {(one.why or ('',))[0].replace('|', '/')} |"
        for one in found
    ]
    return "\n".join(rows) + "\n"


def main() -> int:
    """0 where every case is as known, 1 where one is not, 2 for a case that there is not."""
    words = argparse.ArgumentParser(prog="python -m examples.ports.survey", description=__doc__)
    words.add_argument("names", nargs="*", help="cases; all without any")
    words.add_argument("--out", type=Path, required=True, help="folder for the results")
    words.add_argument("--seconds", type=float, default=SECONDS, help="limit of one case")
    words.add_argument("--gigabytes", type=float, default=GIGABYTES, help="limit of one case")
    words.add_argument("--processes", type=int, default=1, help="cases at once")
    words.add_argument("--one", help=argparse.SUPPRESS)
    asked = words.parse_args()
    unknown = [name for name in (*asked.names, *filter(None, [asked.one])) if name not in CASES]
    if unknown:
        print(f"there is no case {unknown[0]!r}\n  there are {', '.join(CASES)}", file=sys.stderr)
        return 2
    if asked.one:
        try:
            measure(asked.one, asked.out)
        except InputError as error:
            fact, *evidence, _ = (line.strip() for line in str(error).splitlines())
            print("; ".join([fact, *evidence[-1:]]), file=sys.stderr)
            return 2
        return 0
    given = (asked.seconds, asked.gigabytes, asked.processes)
    found = survey(asked.names or [*CASES], asked.out, *given)
    with replacing(asked.out / "survey.md") as temporary:
        temporary.write_text(table(found), encoding="utf-8")
    write_json({"cases": plain(found)}, asked.out, "survey.json")
    as_known = sum(one.as_known for one in found)
    print(f"{as_known} of {len(found)} cases are as known; {asked.out / 'survey.md'}")
    return 0 if as_known == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
