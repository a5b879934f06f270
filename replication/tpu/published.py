"""The published targets of a TPU run in one table: what fits, how fast, how long, at what price."""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from maskformer.model import zoo
from parity.errors import InputError
from parity.provenance import version
from parity.reading import bounds
from parity.reading.content import read_json
from parity.records import write_json
from replication.process.fresh_process import in_fresh_process
from replication.tpu.preflight import COMPILERS, LARGEST_BATCH, Request, preflight, schedule
from reports.chapters.preflight import (
    CORES_PER_CHIP,
    PreflightResult,
    Schedule,
    recheck_preflight,
)

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

    def file(self, find_batch: bool = False, effort: float = 0.0) -> str:
        """The name of its result; results of other options stand beside it."""
        kind = self.topology.partition(":")[0]
        options = "-largest" if find_batch else ""
        options += f"-effort{effort:g}" if effort else ""
        return f"{self.config}-{self.precision}-{kind}{options}.json"

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

    Rows of another effort, or of a table without the largest batch, are others. Several processes
    may fill one `out`: each makes rows that no other is making, and waits for the rest at its end.
    A row that this machine had no room to compile is tried again by the next command. Where all are
    there nothing is written. Raises OSError where `out` cannot be written, and InputError where
    nothing in it can be locked.
    """
    wanted = [(cell.file(find_batch, effort), cell.request(find_batch, effort)) for cell in cells()]
    found = {number: _read(out / name, request) for number, (name, request) in enumerate(wanted)}
    if None in found.values():
        out.mkdir(parents=True, exist_ok=True)
        with _locks(out / LOCKED) as lock:
            for is_rest in (False, True):
                for number, (name, request) in enumerate(wanted):
                    if found[number] is None:
                        with _turn(lock, number, is_rest) as has_turn:
                            if has_turn:
                                found[number] = _row(out, name, request, note)
    return [found[number] for number in range(len(wanted))]


def _row(out: Path, name: str, request: Request, note: Callable[[str], None]) -> PreflightResult:
    """What another process wrote meanwhile, or a row that is made and written now."""
    if (written := _read(out / name, request)) is not None:
        return written
    note(f"{request.entry.name}, {request.precision}, {request.topologies[0]}")
    result = _made(request, note)
    write_json(result.to_json(), out, name)
    return result


@contextmanager
def _locks(path: Path) -> Iterator[int]:
    """A file whose bytes can be locked; what it holds stays as it is."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _unlocked(error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _turn(lock: int, number: int, is_waiting: bool) -> Iterator[bool]:
    """Whether this process may make row `number`; until the context ends no other may, or a kill.

    Where another may, one that `is_waiting` has its turn after it.
    """
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | (0 if is_waiting else fcntl.LOCK_NB), 1, number)
    except (BlockingIOError, PermissionError):  # the two that POSIX allows
        yield False
        return
    except OSError as error:
        raise _unlocked(error) from error
    try:
        yield True
    finally:
        fcntl.lockf(lock, fcntl.LOCK_UN, 1, number)


def _unlocked(error: OSError) -> InputError:
    return InputError(
        f"rows cannot be made in the folder of --out: its {LOCKED} cannot be locked",
        str(error.strerror or error),
        "Choose another folder, one that files can be written to and locked in.",
    )


def _made(request: Request, note: Callable[[str], None]) -> PreflightResult:
    """One row, made in a process of its own: TensorFlow keeps some 200 MB of every program that
    it lowers for as long as it runs."""
    from tf_impl.tpu.preflight import check_compiler

    check_compiler()
    return in_fresh_process(
        preflight,
        request,
        note,
        what=f"{request.entry.name} for {request.topologies[0]}",
        action="Repeat the command: rows that were made are kept.",
    )


def _read(path: Path, request: Request) -> PreflightResult | None:
    """A result that was written before, if the same request would be answered so here; else None.

    It is not where the file was edited, where this machine had no room to compile a step, and where
    another compiler was asked.
    """
    try:
        result = PreflightResult.from_json(read_json(path, bounds.RECORD_BYTES), str(path))
    except (OSError, ValueError):
        return None
    is_own = _is_answer(result, request) and _is_of_these_packages(result)
    return result if is_own and not any(recheck_preflight(result)) else None


def _is_answer(result: PreflightResult, request: Request) -> bool:
    """Whether it has all that was asked for, and none of it is left open."""
    asked = {
        **{name: getattr(request, name) for name in ("command", "precision", "effort", "replicas")},
        **{name: getattr(request, name) for name in ("per_core_batch", "targets")},
        "config": request.entry.name,
        "image_size": request.size,
    }
    named = tuple(row.topology for row in result.topologies)
    if named != request.topologies or any(getattr(result, one) != asked[one] for one in asked):
        return False
    (row,) = result.topologies
    plan = schedule(request, row.topology, 0.0)
    return (
        row.steps.keys() == {"train", "evaluation"}
        and all(step.fits != "not known" for step in row.steps.values())
        and (row.largest_per_core_batch is not None) == request.find_batch == bool(row.tried)
        and (row.schedule is None or _paid(row.schedule) == _paid(plan))
    )


def _paid(plan: Schedule) -> tuple[int, int | None]:
    return plan.images, plan.chips


def _is_of_these_packages(result: PreflightResult) -> bool:
    """Whether the packages that made it are those here; one that is not here decides nothing."""
    packages = result.provenance.get("packages")
    return isinstance(packages, Mapping) and all(
        name in packages and version(name) in (None, packages[name])
        for name in ("tensorflow", *COMPILERS)
    )


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
        start = (name, result.precision, row.topology, images)
        if not step.compiles:
            parts = "" if row.fits == "not known" else row.parts
            yield (*start, parts, row.fits, "", "", row.largest_batch, *[""] * 6)
            continue
        plan, evaluation = row.schedule, row.evaluation
        forward = evaluation.roofline_seconds if evaluation.compiles else None
        yield (
            *start,
            row.parts,
            row.fits,
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
    """Why rows do not compile or fit, or why that is not known, a line each."""
    return [
        f"{', '.join((result.config, result.precision, row.topology, name))}: {text}"
        for result in results
        for row in result.topologies
        for name, text in row.reasons.items()
    ]


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
        f"column says; evaluation is of the images of one part. The largest batch is one of a "
        f"single part; `or more`: larger ones were not tried after {COMPILATIONS} programs, or the "
        f"first after them that fits, or above {LARGEST_BATCH} images, or had no room to be "
        f"compiled here. Hours: the published schedule's images. "
        f"A chip of {two} has two cores. USD per chip-hour: {listed}.",
    ]
    return "\n".join(lines) + "\n"
