"""The published targets of a TPU run in one table: what fits, how fast, how long, at what price."""

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from maskformer.model import zoo
from parity.errors import InputError
from parity.reading import bounds
from parity.reading.content import read_json
from parity.records import write_json
from replication.process.fresh_process import in_fresh_process
from replication.tpu.preflight import CORES_PER_CHIP, Request, preflight
from reports.chapters.preflight import PreflightResult

TARGETS = (
    ("ade20k_r50", (512, 512), ("bf16", "float32")),
    ("coco_r50", (640, 640), ("bf16", "float32")),
    ("coco_swin_large", (640, 640), ("bf16",)),
)
"""Configurations, the size of their images, and the precisions."""
SLICES = (("v3:2x2", 8), ("v4:2x2x1", 4), ("v5e:2x2", 4), ("v5p:2x2x1", 4), ("v6e:2x2", 4))
"""Four chips of each kind, and the cores that they have."""
COMPILATIONS = 4
"""Of a search for the largest batch: two give a line, one more confirms it, or gives another.

More only where the last of them does not fit.
"""
LOCKED = ".rows"
"""A file in the folder of results; a process locks byte N of it while it makes row N."""
PRICES: Mapping[str, float] = {"v3": 2.00, "v4": 3.22, "v5e": 1.20, "v5p": 4.20, "v6e": 2.70}
"""USD per chip-hour, on demand, in the United States, as assumed here; they change."""


@dataclass(frozen=True)
class Cell:
    """One row of the table: a target in one precision on one slice."""

    config: str
    size: tuple[int, int]
    precision: str
    topology: str
    cores: int

    @property
    def file(self) -> str:
        """The name of its result."""
        kind = self.topology.partition(":")[0]
        return f"{self.config}-{self.precision}-{kind}.json"

    def request(self, find_batch: bool, effort: float) -> Request:
        """What is to be compiled for it."""
        entry = zoo.get(self.config)
        batch = entry.solver.ims_per_batch // self.cores
        height, width = self.size
        words = f"parity preflight --config {self.config} --topology {self.topology}"
        words += f" --image-size {height}x{width} --precision {self.precision}"
        words += f" --per-core-batch {batch} --replicas {self.cores} --micro-batches 0"
        words += " --find-batch" if find_batch else ""
        words += f" --effort {effort:g}" if effort else ""
        return Request(
            entry,
            (self.topology,),
            self.size,
            batch,
            self.precision,
            self.cores,
            micro_batches=None,
            find_batch=find_batch,
            compilations=COMPILATIONS,
            effort=effort,
            command=words,
        )


def cells() -> Iterator[Cell]:
    """All rows in the table's order."""
    for config, size, precisions in TARGETS:
        for precision in precisions:
            for topology, cores in SLICES:
                yield Cell(config, size, precision, topology, cores)


def price_changes(texts: list[str]) -> dict[str, float]:
    """`PRICES` with the changes of texts KIND=USD. Raises InputError for other texts."""
    prices = dict(PRICES)
    for text in texts:
        kind, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if kind not in prices or not 0 <= number < float("inf"):
            raise InputError(
                f"--price {text!r} is no price",
                f"expected KIND=USD with a kind of {', '.join(prices)}",
                "For example: --price v5e=1.2",
            )
        prices[kind] = number
    return prices


def fill(
    out: Path, find_batch: bool, effort: float, note: Callable[[str], None]
) -> list[PreflightResult]:
    """The results of all rows, each written to `out` when it is there, and read where it was.

    A row that was compiled with another effort or without the batch that is asked for is compiled
    again. Several processes may fill one `out`: each makes rows that no other is making, and waits
    for the rest at its end. Raises OSError where `out` cannot be written.
    """
    wanted = [(cell.file, cell.request(find_batch, effort)) for cell in cells()]
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCKED).open("w") as lock:
        for is_rest in (False, True):
            for number, (name, request) in enumerate(wanted):
                with _turn(lock, number, is_rest) as has_turn:
                    if has_turn and _read(out / name, request) is None:
                        topology = request.topologies[0]
                        note(f"{request.entry.name}, {request.precision}, {topology}")
                        result = _made(request, note)
                        write_json(result.to_json(), out, name)
    return [_read(out / name, request) for name, request in wanted]


@contextmanager
def _turn(lock: IO[str], number: int, is_waiting: bool) -> Iterator[bool]:
    """Whether this process may make row `number`; until the context ends no other may, or a kill.

    Where another may, one that `is_waiting` has its turn after it.
    """
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | (0 if is_waiting else fcntl.LOCK_NB), 1, number)
    except (BlockingIOError, PermissionError):  # the two that POSIX allows
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(lock, fcntl.LOCK_UN, 1, number)


def _made(request: Request, note: Callable[[str], None]) -> PreflightResult:
    """One row, made in a process of its own: TensorFlow keeps some 200 MB of every program that
    it lowers for as long as it runs."""
    return in_fresh_process(
        preflight,
        request,
        note,
        what=f"{request.entry.name} for {request.topologies[0]}",
        action="Repeat the command: rows that were made are kept.",
    )


def _read(path: Path, request: Request) -> PreflightResult | None:
    """A result that was written before, of the same request; None without one."""
    try:
        result = PreflightResult.from_json(read_json(path, bounds.RECORD_BYTES), str(path))
    except (OSError, ValueError):
        return None
    return result if result.command == request.command else None


def rows(results: list[PreflightResult], prices: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    """The table's cells as text, the titles first."""
    yield (
        "model",
        "precision",
        "four chips",
        "images per core",
        "parts",
        "fits",
        "HBM of a core, GiB",
        "share",
        "largest batch",
        "step, ms",
        "matching, ms",
        "evaluation, ms",
        "hours",
        "chip-hours",
        "USD",
    )
    for result in results:
        (row,) = result.topologies
        kind = row.topology.partition(":")[0]
        height, width = result.image_size
        name = f"{result.config}, {height}x{width}"
        step = row.train
        images = str(result.per_core_batch)
        start = (name, result.precision, row.topology, images, row.parts)
        if step is None or not step.compiles:
            yield (*start, "no", "", "", row.largest_batch, *[""] * 6)
            continue
        plan, evaluation = row.schedule, row.evaluation
        forward = evaluation.roofline_seconds if evaluation.compiles else None
        yield (
            *start,
            "yes" if row.passed else "training only",
            f"{step.hbm_used / 2**30:.2f}",
            f"{step.hbm_share:.0%}",
            row.largest_batch,
            f"{1e3 * row.micro_batches * step.roofline_seconds:.0f}",
            f"{1e3 * row.matcher.seconds:.1f}",
            "" if forward is None else f"{1e3 * forward:.1f}",
            f"{plan.hours:.0f}",
            f"{plan.chip_hours:.0f}",
            f"{plan.chip_hours * prices[kind]:.0f}",
        )


def reasons(results: list[PreflightResult]) -> list[str]:
    """Why rows do not compile or fit, a line each."""
    found = []
    for result in results:
        (row,) = result.topologies
        start = f"{result.config}, {result.precision}, {row.topology}"
        if row.reason:
            found.append(f"{start}: {row.reason}")
        found += [
            f"{start}, {name}: {one.reason}" for name, one in row.steps.items() if not one.compiles
        ]
    return found


def markdown(results: list[PreflightResult], prices: Mapping[str, float]) -> str:
    """The table and what its numbers are."""
    titles, *body = rows(results, prices)
    lines = ["| " + " | ".join(titles) + " |", "| " + " | ".join("---" for _ in titles) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in body]
    if refused := reasons(results):
        lines += ["", *(f"- {reason}" for reason in refused)]
    used = {result.topologies[0].topology.partition(":")[0] for result in results}
    listed = ", ".join(f"{kind} {usd:.2f}" for kind, usd in prices.items() if kind in used)
    two = ", ".join(kind for kind, cores in CORES_PER_CHIP.items() if cores == 2)
    lines += [
        "",
        f"Every row has the published batch. Images that a core has no memory for at once are "
        f"computed in parts, the fewest that fit; `or fewer`: this machine had no room to compile "
        f"fewer. Times are estimates: every step at the roofline, "
        f"or its parts, the update counted with each of them; matching adds at most what its "
        f"column says. The largest batch is one of a single part; `or more`: larger ones were not "
        f"tried after {COMPILATIONS} programs, or the first after them that fits, or had no room "
        f"to be compiled here. Hours: the published schedule's images. "
        f"A chip of {two} has two cores. USD per chip-hour: {listed}.",
    ]
    return "\n".join(lines) + "\n"
