"""What can be asked of a preflight; anything else is refused before a program is lowered."""

import math
import re
from typing import TYPE_CHECKING

from parity.errors import InputError
from replication.tpu.preflight import LARGEST_BATCH
from reports.chapters.preflight import CORES_PER_CHIP

if TYPE_CHECKING:
    from replication.tpu import execution, preflight

MOST_REPLICAS = 64
"""Of an executed program: virtual devices of one process, and as many of PyTorch beside it, each
with the model, its gradients and the optimizer's moments."""
MOST_TARGETS = 1000
"""Of an image: each has a mask as large as the image."""
MOST_MASKS = 1 << 30
"""Pixels of all masks of one update, which are bytes here."""
MOST_PIXELS = 1 << 28
"""Of all images of an execution, each some 30 bytes: they are made before the first update."""
MOST_CHIPS = 8960
"""In the largest slice that there is, of v5p."""

_SHAPE = re.compile(r"[1-9][0-9]{0,3}(x[1-9][0-9]{0,3}){1,2}")


def check_compilation(request: "preflight.Request") -> None:
    """Raises InputError where a request cannot be compiled: for its numbers, its slices of chips,
    or since the compiler is not installed."""
    from tf_impl.tpu.preflight import check_compiler

    for topology in request.topologies:
        _check_slice(topology, request.replicas)
        if request.topologies.count(topology) > 1:
            raise InputError(
                f"--topology {topology} is given twice",
                "one compilation says all about it",
                "name each once",
            )
    check_effort(request.effort)
    _check_most("--targets", request.targets, MOST_TARGETS, "each has a mask of its own")
    _check_most(
        "--per-core-batch", request.per_core_batch, LARGEST_BATCH, "--find-batch tries no more"
    )
    check_compiler()


def check_execution(request: "execution.Request") -> None:
    """Raises InputError where a request cannot be executed: for its numbers, or without JAX."""
    from tf_impl.tpu.compiler import check_jax

    if request.replicas < 2:
        raise InputError(
            f"--replicas is {request.replicas}",
            "one replica has nothing to add up",
            "For example: --replicas 2",
        )
    _check_most(
        "--replicas times --micro-batches",
        request.replicas * request.parts,
        MOST_REPLICAS,
        "each is a process of PyTorch, and each replica a virtual device",
    )
    _check_most("--targets", request.targets, MOST_TARGETS, "each has a mask of its own")
    pixels = request.replicas * request.per_replica * math.prod(request.size)
    _check_most(
        "--replicas times --per-core-batch, pixels of --image-size and --targets",
        pixels * request.targets,
        MOST_MASKS,
        "an update's masks are in memory at once",
    )
    _check_most(
        "--steps times --replicas, --per-core-batch and pixels of --image-size",
        request.steps * pixels,
        MOST_PIXELS,
        "all updates' images are in memory at once",
    )
    check_jax()


def check_effort(effort: float) -> None:
    """Raises InputError for an effort that the compiler does not know."""
    if not -1 <= effort <= 1:  # nor NaN
        raise InputError(
            f"--effort is {effort}",
            "expected a number from -1, the fastest compilation, to 1",
            "leave it out for 0, what a training run gets",
        )


def _check_most(what: str, value: int, most: int, why: str) -> None:
    if value > most:
        raise InputError(f"{what} is {value}", f"at most {most:,}: {why}", "give less")


def _check_slice(topology: str, replicas: int) -> None:
    """Raises InputError where there is no such slice of chips, or not a core for each replica."""
    from tf_impl.tpu.preflight import chip_of

    chip_of(topology)
    kind, _, shape = topology.partition(":")
    sides = [int(side) for side in shape.split("x")] if _SHAPE.fullmatch(shape) else []
    if not sides or sides[0] % 2 or sides[1] % 2 or math.prod(sides) > MOST_CHIPS:
        raise InputError(
            f"--topology {topology!r} is no slice of chips",
            f"expected KIND:AxB or KIND:AxBxC of whole hosts, which have 2x2 chips, at most "
            f"{MOST_CHIPS:,} in all",
            f"for example --topology {kind}:2x2",
        )
    cores = math.prod(sides) * CORES_PER_CHIP.get(kind, 1)
    if replicas > cores:
        raise InputError(
            f"--replicas is {replicas}",
            f"{topology} has {cores} cores",
            "give fewer, or a larger slice",
        )
