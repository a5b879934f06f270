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
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import psutil

from examples.ports.study import CASES, pair
from parity import audit, save
from parity.auditing.result import AuditResult
from parity.errors import InputError
from parity.files import replacing
from parity.records import parts, plain, typed, write_json

SECONDS, GIGABYTES = 300.0, 6.0
SEARCH = "60s,10s"
WATCHED = 0.5  # seconds between two looks at a case's memory


@dataclass(frozen=True)
class Found:
    """What the survey says of one case.

    Args:
        name, expected: the case, and what is known to differ.
        verdict: equal, different, or not comparable.
        why: the places and causes, or what prevented the comparison.
        gap: the largest float64 gap, relative l2; `mended` is that of the mended pair.
        ratio: the largest float32 error in units of the reference's own.
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
    kept: int = 0
    proven: bool | None = None
    seconds: float = 0.0
    gigabytes: float = 0.0

    @property
    def as_known(self) -> bool:
        """Whether it is what is known of the case, and a difference with a mend is proven."""
        known = "different" if self.expected else "equal"
        return self.verdict == known and self.proven is not False


def measure(name: str, folder: Path) -> None:
    """Audits one case, and its mended pair where it has a mend; keeps the results in `folder`."""
    case = CASES[name]
    for part, mended in (("", False), ("mended", True)):
        if not mended or case.mend is not None:
            found = audit(pair(case, mended=mended), executions=("eager",), search=SEARCH)
            save(found, folder / part)


def survey(names: Sequence[str], out: Path, seconds: float, gigabytes: float) -> list[Found]:
    """All cases, those that `out` has already not again; prints a line for each."""
    found = []
    for number, name in enumerate(names, 1):
        folder = out / name.replace(", ", "-").replace(" ", "-")
        kept = folder / "found.json"
        if not kept.is_file():
            one = _run(name, folder, seconds, gigabytes)
            write_json(parts(one), folder, kept.name)
        found.append(typed(Found, json.loads(kept.read_text(encoding="utf-8"))))
        print(f"[{number}/{len(names)}] {_line(found[-1])}", flush=True)
    return found


def _run(name: str, folder: Path, seconds: float, gigabytes: float) -> Found:
    started, most = time.monotonic(), 0.0
    expected = CASES[name].differs
    command = [sys.executable, "-m", "examples.ports.survey", "--one", name, "--out", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
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
        told = child.stderr.read().strip().splitlines()
    took = {"seconds": round(time.monotonic() - started, 1), "gigabytes": round(most, 2)}
    if stopped or child.returncode:
        return Found(name, expected, "not comparable", (stopped or told[-1],), **took)
    plainly, mended = (_result(folder / part) for part in ("", "mended"))
    return Found(
        name,
        expected,
        plainly.verdict,
        tuple(one.headline for one in plainly.localisations),
        plainly.float64.worst_gap,
        mended and mended.float64.worst_gap,
        max((one.worst_ratio for one in plainly.float32.values()), default=None),
        len(plainly.kept_in_float64),
        None if mended is None else mended.verdict == "equal",
        **took,
    )


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
    surprise = "" if one.as_known else f" (expected: {one.expected or 'equal'})"
    return f"{one.name}: {one.verdict}{surprise}, {len(one.why)} places{proven}, {one.seconds} s"


def table(found: Iterable[Found]) -> str:
    """The survey as Markdown."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.1e}"

    rows = [
        "| case | verdict | float64 gap | mended | float32 ratio | kept in float64 | first place |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows += [
        f"| {one.name} | {one.verdict} | {number(one.gap)} | {number(one.mended)} | "
        f"{'' if one.ratio is None else f'{one.ratio:.2f}'} | {one.kept} | "
        f"{(one.why or ('',))[0].replace('|', '/')} |"
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
            print(" ".join(str(error).split()), file=sys.stderr)
            return 2
        return 0
    found = survey(asked.names or [*CASES], asked.out, asked.seconds, asked.gigabytes)
    with replacing(asked.out / "survey.md") as temporary:
        temporary.write_text(table(found), encoding="utf-8")
    write_json({"cases": plain(found)}, asked.out, "survey.json")
    as_known = sum(one.as_known for one in found)
    print(f"{as_known} of {len(found)} cases are as known; {asked.out / 'survey.md'}")
    return 0 if as_known == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
