"""Inputs on which fewer wrong models are right, made from those of a pair."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.auditing.pair import Built, Inputs, Pair, axes_of, build, cast
from parity.auditing.reference import given_reference
from parity.calls import fill, flatten, is_array
from parity.errors import InputError

LESS, LEVELS = 12, 5  # how much smaller a side may become, and how often strides halve it
MEAN = 2.0  # of floats, in units of their spread
PADDED = 3  # all but the first of a batch lose one in so many positions
SEED = 0
ASPECTS = ("sides", "batch", "lengths", "values")
"""What is made harder, in the order in which it is given up where the reference cannot run."""


_Order = tuple[str, np.ndarray, str, tuple[int, ...]]
"""An array of the port by name, the name of the reference's, and the order of its axes."""


@dataclass(frozen=True)
class Harder:
    """A pair with other inputs, and what was changed of them, a sentence each."""

    pair: Pair
    told: tuple[str, ...]


def with_hard_inputs(pair: Pair) -> Harder:
    """The pair with inputs that hide less, on which its reference runs.

    Sides of images that no stride divides and that differ; a batch of two at least; masks that hide
    the ends of all but the first; floats that vary from place to place around a mean far from 0.
    Integers that are no masks keep their values, so that no table is left. What the reference
    cannot be given stays as it was, which is said.

    Raises InputError where the inputs of the port are given apart and are not the reference's in
    another order of axes, and where the reference runs on no inputs.
    """
    pair, first = given_reference(pair)
    built = first or build(pair.reference, "float32")
    orders = _orders(pair)
    kept: list[str] = []
    problem = ""
    for left in range(len(ASPECTS) + 1):
        made = harder(pair.inputs, ASPECTS[left:])
        failed = _failure(pair, built, made)
        if failed is None:
            break
        problem = problem or failed
        kept.append(ASPECTS[left] if left < len(ASPECTS) else "")
    else:
        raise InputError(
            "the reference runs on no inputs, not even on its own",
            problem,
            "give the pair inputs that the reference takes",
        )
    told = _changes(pair.inputs, made)
    if kept:
        told.append(f"{', '.join(kept)} stay: with others the reference fails, {problem}")
    port = None if orders is None else _as_port(pair, orders, made)
    return Harder(replace(pair, inputs=made, port_inputs=port), tuple(told))


def harder(inputs: Inputs, aspects: Sequence[str] = ASPECTS) -> Inputs:
    """The inputs with some `aspects` made harder; always the same ones."""
    template, arrays = flatten(inputs, is_array, records=True)
    rng = np.random.default_rng(SEED)
    sides = _sides(arrays) if "sides" in aspects else {}
    count = max([2, *(len(a) for _, a in arrays if a.ndim > 1)])
    made = {}
    for name, given in arrays:
        array = _cropped(given, sides)
        if "batch" in aspects and array.ndim > 1 and len(array) == 1:
            array = _repeated(array, count, rng)
        if "lengths" in aspects and (hides := _hiding(array)) is not None:
            array = _with_lengths(array, hides)
        elif "values" in aspects and array.dtype.kind == "f" and array.ndim > 1:
            array = _varied(array, rng)
        made[name] = np.ascontiguousarray(array)
    return fill(template, lambda slot: made[slot.name])


def _sides(arrays: Sequence[tuple[str, np.ndarray]]) -> dict[tuple[int, int], tuple[int, int]]:
    """Other sides for those of each image: a little smaller, and different at every level."""
    found = {}
    for _, array in arrays:
        axes = _image_axes(array)
        if axes is None:
            continue
        own = tuple(array.shape[axis] for axis in axes)
        if min(own) > 2 * LESS:
            found[own] = max(
                itertools.product(*(range(side - LESS, side) for side in own)),
                key=lambda sides: (_mixed(*sides), sides[0] != sides[1], sum(sides)),
            )
    return found


def _mixed(height: int, width: int) -> int:
    """On how many levels, each halved from the one before, one side is odd and the other even.

    An odd side shows how halves are rounded, and an even one where the odd pixel is padded.
    """
    count = 0
    for _ in range(LEVELS):
        count += height % 2 != width % 2
        height, width = -(-height // 2), -(-width // 2)
    return count


def _image_axes(array: np.ndarray) -> tuple[int, int] | None:
    """The axes of height and width: of four axes the two largest that are neighbours."""
    if array.ndim != 4 or array.dtype.kind != "f":
        return None
    return (2, 3) if min(array.shape[2:]) >= min(array.shape[1:3]) else (1, 2)


def _cropped(array: np.ndarray, sides: Mapping[tuple[int, int], tuple[int, int]]) -> np.ndarray:
    """Without the ends of the neighbouring axes that have the sides of an image."""
    for axis in range(1, array.ndim - 1):
        wanted = sides.get((array.shape[axis], array.shape[axis + 1]))
        if wanted is not None:
            slices = [slice(None)] * array.ndim
            slices[axis : axis + 2] = [slice(side) for side in wanted]
            return array[tuple(slices)]
    return array


def _repeated(array: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The only one of a batch, and others with its numbers in another order."""
    others = [rng.permutation(array[0].ravel()).reshape(array.shape[1:]) for _ in range(1, count)]
    return np.stack([array[0], *others])


def _hiding(array: np.ndarray) -> Any | None:
    """What hides a position, of a mask that hides none: False or 0 among ones, True among False."""
    if array.ndim not in (2, 3) or not array.size or (array != array.flat[0]).any():
        return None
    if array.dtype.kind == "b":
        return not array.flat[0]
    return 0 if array.flat[0] == 1 else None


def _with_lengths(array: np.ndarray, hides: Any) -> np.ndarray:
    made = array.copy()
    for index, axis in itertools.product(range(1, len(made)), range(1, made.ndim)):
        size = made.shape[axis]
        hidden = min(size - 1, size // PADDED + index - 1)
        if hidden > 0:
            slices: list[Any] = [slice(None)] * made.ndim
            slices[0], slices[axis] = index, slice(size - hidden, None)
            made[tuple(slices)] = hides
    return made


def _varied(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise and a slope along every axis, around a mean far from 0, in the spread of the given."""
    spread = float(array.std()) or 1.0
    places = np.meshgrid(*(np.linspace(-1, 1, size) for size in array.shape), indexing="ij")
    slope = sum(rng.normal() * along for along in places)
    return (spread * (rng.normal(size=array.shape) + slope + MEAN)).astype(array.dtype)


def _failure(pair: Pair, built: Built, inputs: Inputs) -> str | None:
    """What the reference raises on the inputs; None where it runs."""
    framework = built.framework
    try:
        recorder = framework.recorder(
            built.model,
            axes_of(pair.axes, framework),
            framework.EXECUTIONS[0],
            only=None,
            copies=pair.copies,
            naming=None,
        )
        with built.precision():
            recorder(cast(inputs, built.dtype), lambda tap: None)
    except Exception as error:  # whatever the user's model raises
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None


def _changes(before: Inputs, after: Inputs) -> list[str]:
    """A sentence for each array that was changed."""
    told = []
    pairs = zip(flatten(before, is_array)[1], flatten(after, is_array)[1], strict=True)
    for (name, old), (_, new) in pairs:
        if old.shape != new.shape:
            sizes = " became ".join("x".join(map(str, one.shape)) for one in (old, new))
            told.append(f"input {name}: {sizes}")
        elif not np.array_equal(old, new):
            told.append(f"input {name}: other values")
    return told


def _orders(pair: Pair) -> list[_Order] | None:
    """For each array of the port which of the reference's it is, in which order of axes; None where
    the port is given what the reference is."""
    if pair.port_inputs is None:
        return None
    theirs = flatten(pair.inputs, is_array)[1]
    found: list[_Order] = []
    for name, array in flatten(pair.port_inputs, is_array)[1]:
        met = [
            (name, array, other, order)
            for other, one in theirs
            for order in itertools.permutations(range(one.ndim))
            if one.ndim == array.ndim
            and tuple(one.shape[axis] for axis in order) == array.shape
            and np.array_equal(one.transpose(order), array)
        ]
        by_name = [one for one in met if one[2].rpartition(".")[2] == name.rpartition(".")[2]]
        if not met:
            raise InputError(
                "the inputs of this pair cannot be made harder",
                "the port has inputs of its own, which are not the reference's in another order",
                "leave `port_inputs` out, or give inputs that hide less",
            )
        found.append((by_name or met)[0])
    return found


def _as_port(pair: Pair, orders: Sequence[_Order], made: Inputs) -> Inputs:
    """The port's inputs that belong to those that were made for the reference."""
    arrays = dict(flatten(made, is_array)[1])
    ours = {
        name: np.ascontiguousarray(arrays[other].transpose(order)).astype(array.dtype)
        for name, array, other, order in orders
    }
    template, _ = flatten(pair.port_inputs, is_array, records=True)
    return fill(template, lambda slot: ours[slot.name])
