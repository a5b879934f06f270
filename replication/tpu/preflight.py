"""Lowers and compiles the steps of a training for TPU topologies, and says what they would take."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from maskformer.family import family_of
from parity.claims import all_hold
from parity.provenance import provenance, version
from parity.steps import give_back
from reports.chapters.preflight import (
    Compilation,
    MatcherBound,
    PreflightResult,
    Schedule,
    Topology,
    Tried,
    claims_of,
    scheduled,
)

if TYPE_CHECKING:
    from maskformer.model.zoo import Entry
    from tf_impl.tpu.lowering import Program
    from tf_impl.tpu.preflight import Compiled

PRECISIONS = {"bf16": "mixed_bfloat16", "float32": "float32"}
COMPILERS = ("jax", "libtpu")
"""Packages that compile, beside TensorFlow, which lowers."""
LARGEST_BATCH = 512
MARGIN = 16  # what is off by one image would else end a search with nothing
GROWTH = 8  # a program of 100 times as many images may have no room on this machine
STATE_ARRAYS = 16  # [columns, problems] arrays that one step of the assignment reads or writes


@dataclass(frozen=True)
class Request:
    """What is to be compiled: one entry of the zoo, one batch shape, some topologies.

    A core's images are computed in `micro_batches` parts, None for the fewest that fit. The search
    for the largest batch, of one part, ends after so many `compilations`.
    """

    entry: "Entry"
    topologies: tuple[str, ...]
    size: tuple[int, int]
    per_core_batch: int = 1
    precision: str = "bf16"
    replicas: int = 1
    targets: int = 100
    micro_batches: int | None = 1
    find_batch: bool = False
    compilations: int | None = None
    evaluation: bool = True
    effort: float = 0.0
    command: str = "parity preflight"


class Programs:
    """The programs of a request; that of the last batch is kept, for further topologies."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._last: tuple[tuple[int, int], Program] | None = None

    @cached_property
    def model(self) -> Any:
        """The model in the precision that was asked for."""
        import tf_impl

        return tf_impl.build(self.request.entry.model, PRECISIONS[self.request.precision])

    @cached_property
    def optimizer(self) -> Any:
        """One for all programs: its variables are twice the model's."""
        from tf_impl.optimizer import build_optimizer

        return build_optimizer(self.model, self.request.entry.solver, "float32")

    def train(self, batch: int, parts: int = 1) -> "Program":
        """The training step of `batch` images per replica, in `parts`."""
        if self._last is None or self._last[0] != (batch, parts):
            from tf_impl.tpu.lowering import lower_train_step

            self._last = None
            give_back()
            program = lower_train_step(
                self.model,
                self.optimizer,
                self._shapes(batch),
                self.request.replicas,
                parts=parts,
            )
            self._last = ((batch, parts), program)
        return self._last[1]

    def evaluation(self, batch: int) -> "Program":
        """The forward pass of `batch` images."""
        from tf_impl.tpu.lowering import lower_forward

        return lower_forward(self.model, self._shapes(batch))

    def _shapes(self, batch: int) -> Any:
        from tf_impl.tpu.lowering import Shapes

        return Shapes(batch, *self.request.size, self.request.targets)


def preflight(request: Request, note: Callable[[str], None] = lambda text: None) -> PreflightResult:
    """What the TPU's compiler says of the request, one result per topology.

    `note` receives a line for each step of the work. Raises InputError where a topology has no such
    kind, or the compiler is not installed. A step that cannot be lowered at all is a result.
    """
    from tf_impl.tpu.preflight import chip_of

    for topology in request.topologies:
        chip_of(topology)
    programs = Programs(request)
    rows = [_row(request, programs, topology, note) for topology in request.topologies]
    claims = [one for row in rows for one in claims_of(row, request.command)]
    known = provenance(config=request.entry.name)
    known["packages"] |= {name: version(name) for name in COMPILERS}
    return PreflightResult(
        claims=tuple(claims),
        command=request.command,
        config=request.entry.name,
        precision=request.precision,
        image_size=tuple(request.size),
        per_core_batch=request.per_core_batch,
        replicas=request.replicas,
        targets=request.targets,
        effort=request.effort,
        topologies=tuple(rows),
        passed=all_hold(claims),
        provenance=known,
    )


def _row(
    request: Request, programs: Programs, topology: str, note: Callable[[str], None]
) -> Topology:
    from tf_impl.tpu.lowering import NotCompilableError
    from tf_impl.tpu.preflight import Compiled, chip_of, compile_for

    def compiled(title: str, lower: "Callable[[], Program]") -> "Compiled":
        note(f"{topology}: lowering {title}")
        try:
            program = lower()
        except NotCompilableError as error:
            reason = "; ".join(line.strip() for line in str(error).splitlines())
            return Compiled(topology, False, reason, "lowering")
        note(f"{topology}: compiling {title}")
        return compile_for(program, topology, request.effort)

    def train(batch: int, parts: int = 1) -> "Compiled":
        title = f"the training step, {batch} images per core"
        title += f" in {parts} parts" if parts > 1 else ""
        return compiled(title, lambda: programs.train(batch, parts))

    chip = chip_of(topology)
    fewer = ""

    def in_parts(parts: int) -> "Compiled":
        nonlocal fewer
        step = train(request.per_core_batch, parts)
        if step.kind == "machine":
            fewer = f"in {parts}: {step.reason}"
        elif not step.fits:  # then it does not in fewer parts
            fewer = ""
        return step

    if request.micro_batches is None:
        parts, step = fewest_parts(in_parts, request)
    else:
        parts = request.micro_batches
        step = train(request.per_core_batch, parts)
    found: dict[str, Any] = {"micro_batches": parts, "fewer_parts": fewer if step.fits else ""}
    if step.compiles:
        found["matcher"] = matcher_bound(request, chip.bandwidth)
        # The compiler counts the body of the loop over parts once.
        found["schedule"] = schedule(request, topology, parts * step.roofline_seconds)
    images = request.per_core_batch // parts
    if request.evaluation:
        forward = compiled("the evaluation step", lambda: programs.evaluation(images))
        found["evaluation"] = described(forward)
    if request.find_batch:
        tried: list[Tried] = []

        def judged(batch: int) -> "Compiled":
            one = step if (batch, parts) == (images, 1) else train(batch)
            tried.append(Tried(batch, "yes" if one.fits else one.kind or "memory"))
            return one

        largest = largest_batch(judged, images, request.compilations)
        found |= {"largest_per_core_batch": largest.batch, "larger_batches": largest.unknown}
        found["tried"] = tuple(tried)
    row = Topology(
        topology=topology, passed=False, chip=asdict(chip), train=described(step), **found
    )
    return replace(row, passed=row.fits == "yes")


def described(found: "Compiled") -> Compilation:
    """A compilation as it is recorded."""
    if not found.compiles:
        return Compilation(compiles=False, kind=found.kind, reason=found.reason)
    return Compilation(
        compiles=True,
        compile_seconds=found.seconds,
        memory=found.memory,
        hbm_used=found.hbm_used,
        hbm_share=found.hbm_used / found.chip.hbm,
        flops=found.flops,
        bytes_accessed=found.bytes_accessed,
        roofline_seconds=found.roofline_seconds,
    )


def matcher_bound(request: Request, bandwidth: float) -> MatcherBound:
    """The most that the assignment's loops can add: the compiler counts their bodies once.

    With R real targets a row is scanned at most R times and its path has at most R hops
    (`tf_impl.linear_sum_assignment`); the time is that of reading and writing its state.
    """
    from tf_impl.linear_sum_assignment import BIDS_PER_ROW

    matching = family_of(request.entry.model).matching(request.entry.model)
    if matching is None:
        return MatcherBound(0, 0.0)
    rows, columns = sorted((request.targets, matching.queries))
    steps = BIDS_PER_ROW * rows + rows * (2 * rows + 1)
    state = STATE_ARRAYS * 4 * columns * matching.layers * request.per_core_batch
    return MatcherBound(steps, steps * state / bandwidth)


def schedule(request: Request, topology: str, seconds: float) -> Schedule:
    """An estimate from below of the published schedule: its images at the roofline's pace."""
    solver = request.entry.solver
    images = solver.max_iter * solver.ims_per_batch
    return scheduled(images, request.per_core_batch, request.replicas, topology, seconds)


def fewest_parts(compiled: "Callable[[int], Compiled]", request: Request) -> tuple[int, "Compiled"]:
    """The fewest equal parts of a core's images whose step fits, and what the compiler says of it.

    That of as many parts as images where none fits, or one that ends for another reason. What a
    refused program needs says how many parts cannot do. Of one that this machine has no room to
    compile nothing is known, and more parts are tried.
    """
    images = request.per_core_batch
    least = 1
    for parts in (count for count in range(1, images + 1) if images % count == 0):
        if parts < min(least, images):
            continue
        step = compiled(parts)
        is_open = step.is_too_large or step.kind == "machine"
        if not is_open or parts == images:
            return parts, step
        least = math.ceil(parts * (step.needed or step.hbm_used) / step.chip.hbm)
    raise AssertionError("one part for each image is a divisor")


@dataclass(frozen=True)
class LargestBatch:
    """The most images per core whose step fits; `unknown` says why larger ones were not judged."""

    batch: int
    unknown: str = ""


def largest_batch(
    compiled: "Callable[[int], Compiled]", first: int = 1, compilations: int | None = None
) -> LargestBatch:
    """The largest number of images per core whose step fits, 0 where not even one does.

    Memory grows by about the same for each image, so a line through what is known gives the next
    guess, beginning at `first`. Near its limit the compiler saves memory and the line is wrong:
    steps double until one does not fit, and an interval that the line does not narrow by a quarter
    is halved. The end is one batch that fits beside one that does not, or so many `compilations`
    in all, the first included; the last stays a `MARGIN`-th below what does not fit, and where it
    does not fit either, the interval is halved until one does. No guess is more than `GROWTH` times
    what fits. Of a program that has no room on this machine nothing is known, and smaller ones are
    tried; one that ends for another reason than memory ends the search. Above `LARGEST_BATCH`, or
    a larger `first`, nothing is tried.
    """
    last = max(first, LARGEST_BATCH)
    fits, fails, room, why = 0, last + 1, last + 1, ""
    guess, up, used, done, is_over = first, 1, {}, 0, False
    most = math.inf if compilations is None else compilations
    while (end := min(fails, room)) - fits > 1:
        lowest, width = min(fits + up, end - 1), end - fits
        guess = max(lowest, min(guess, end - 1))
        if is_over:
            counted = f"{done} programs were compiled, {guess} images are next"
            return LargestBatch(fits, why if room < fails else counted)
        if done + 1 == most and end <= last:
            guess = max(fits + 1, min(guess, end - end // MARGIN))
        elif done >= most:
            guess = (fits + end) // 2
        step, done = compiled(guess), done + 1
        is_over = done >= most and not step.is_too_large
        if step.fits:
            up = 2 * up if guess == lowest else 1
            fits, used[guess] = guess, step.hbm_used
        elif step.is_too_large:
            up, fails, used[guess] = 1, guess, step.needed or step.hbm_used
        elif step.kind == "machine":
            up, room, why = 1, guess, f"{guess} images: {step.reason}"
        else:
            return LargestBatch(fits, f"{guess} images: {step.reason}")
        guess = _by_a_line({n: size for n, size in used.items() if size}, step.chip.hbm)
        end = min(fails, room)
        is_vague = guess is None or guess >= room or 4 * (end - fits) > 3 * width
        if end <= last and is_vague:
            guess = (fits + end) // 2
        guess = fits if guess is None else guess
        guess = min(guess, GROWTH * fits) if fits else guess
    if room < fails:
        return LargestBatch(fits, why)
    return LargestBatch(fits, f"more than {last} images are not tried" if fails > last else "")


def _by_a_line(used: dict[int, int], limit: int) -> int | None:
    """The batch at which memory reaches `limit`; None where that cannot be told.

    By the size nearest to it and the next that is at least a quarter of its batch away, or none.
    """
    if not used:
        return None
    near, at_near = min(used.items(), key=lambda item: abs(item[1] - limit))
    others = [n for n in used if 4 * abs(n - near) >= near]
    far = min(others, key=lambda n: abs(used[n] - limit)) if others else 0
    slope = (at_near - used.get(far, 0)) / (near - far)
    return near + math.floor((limit - at_near) / slope) if slope > 0 else None
