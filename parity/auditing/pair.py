"""Two models that should compute the same, and what is given to both."""

import fnmatch
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.auditing.result import Input
from parity.calls import fill, flatten, is_array
from parity.errors import InputError
from parity.frameworks import registry
from parity.frameworks.framework import Framework
from parity.judge import MIXED
from parity.names import Declared
from parity.trace import Axes, tap_key
from parity.weights import Loaded, Weights

Inputs = tuple | dict[str, Any]
AxesByPlace = Mapping[int | str, str]
OTHER_AXES: AxesByPlace = {3: "NSC", 2: "NX", 1: "X", 0: ""}


@dataclass(frozen=True)
class InDtype:
    """Builds a model that is told its precision, such as "float64", and needs nothing set."""

    build: Callable[[str], Any]


Source = Any  # a model, a function that builds one, or `InDtype`


@dataclass(frozen=True)
class Pair:
    """Two models that should compute the same, and how their parts belong together.

    Args:
        reference: the model with its weights, in float32 and in eval mode, or a function that
            builds it; copied for each precision.
        port: builds the other model. It is called once for each precision; layers of Keras that it
            builds compute in that precision, unless they fix one. Or a model that can be copied.
        inputs: the reference's arguments as NumPy arrays, a tuple of positional or a dict of named
            ones; floats are given in float32.
        port_inputs: the port's; by default `inputs`, with the axes of each in the port's order.
        names: the declared map between modules and tensors, whole or in part; by default, what
            belongs together is found (`parity.match`). `Names()` where modules have the same paths.
        weights: `Weights` where the reference's are to be moved into the port, with what of them
            does not follow from the pairs of layers. By default the port's own stay and are
            compared where they are the reference's, and are moved where they are not. `Loaded`
            where the port is built with them and something else reads them back.
        axes, port_axes: one letter for each axis of a tensor, by its number of axes, or by its
            place, such as `*.norm:*`, with the reference's path; places go first. What is not
            listed is an image, whose channels are last in TensorFlow and first after the batch in
            PyTorch, or has the same axes on both sides. Or a function axes(path, kind, name, rank).
        stage: the part of the model that a module belongs to, for the report; by default the first
            part of its path.
        after_loading: changes each port once it has its weights, such as to plant a fault.
        copies: whether the reference changes tensors in place, so that they must be copied.
        hard_inputs: compare on inputs that hide fewer mistakes, made from these: other sides, a
            batch of two, masks of different lengths, values far from 0; where the reference cannot
            take them, as many of these as it can.
        extreme_inputs: judge modules also alone on extreme inputs, in float64 and float32: logits
            of +-30 and +-100, means far from 0, constants, numbers next to overflow.
        undeclared: go on where weights have no counterpart or none for certain, as in a first
            audit: they stay as they are, the result lists them, and its claim on weights fails.

    Example:
        >>> import numpy, tf_keras, torch
        >>> reference = torch.nn.Linear(4, 2).eval()
        >>> images = numpy.ones((3, 4), "float32")
        >>> pair = parity.Pair(reference, lambda: tf_keras.layers.Dense(2), (images,))
    """

    reference: Source
    port: Source
    inputs: Inputs
    port_inputs: Inputs | None = None
    names: Declared | None = None
    weights: Weights | Loaded | None = None
    axes: AxesByPlace | Axes = field(default_factory=dict)
    port_axes: AxesByPlace | Axes = field(default_factory=dict)
    stage: Callable[[str], str] = lambda path: path.partition(".")[0] or "outputs"
    after_loading: Callable[[Any], None] | None = None
    copies: bool = True
    hard_inputs: bool = False
    extreme_inputs: bool = False
    undeclared: bool = False


@dataclass(frozen=True)
class Built:
    """One model in one precision; `told` is one that was told it and needs nothing set."""

    framework: Framework
    model: Any
    dtype: str
    told: bool = True

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Inside it the model runs, and in float64 stays there whatever it casts to."""
        if self.told and self.dtype != MIXED:
            yield
            return
        kept = getattr(self.framework, "kept_in", nullcontext)
        with self.framework.precision(self.dtype), kept(self.dtype):
            yield


def build(source: Source, dtype: str) -> Built:
    """The model of `source` in `dtype`; raises InputError for what is no model and builds none."""
    if isinstance(source, InDtype):
        model = source.build(dtype)
        return Built(registry.of(model), model, dtype)
    registry.refuse_programs(source)
    if registry.entry_of(source) is None and callable(source):
        return Built(*registry.built(source, dtype), dtype, told=False)
    framework = registry.of(source)
    if framework.copied is None:
        raise InputError(
            f"a {type(source).__name__} of {framework.NAME} was given, not what builds it",
            "its layers cannot change their precision",
            "give a function that builds it, such as `lambda: Model()`",
        )
    return Built(framework, framework.copied(source, dtype), dtype, told=False)


def axes_of(given: AxesByPlace | Axes, framework: Framework) -> Axes:
    """The names of axes as a function of the place; the framework's images where none is given."""
    if callable(given):
        return given
    by_rank = {**OTHER_AXES, **framework.IMAGES, **given}
    patterns = {place: letters for place, letters in given.items() if isinstance(place, str)}

    def letters_of(path: str, kind: str, name: str, rank: int) -> str:
        key = tap_key(path, kind, name)
        for place, letters in patterns.items():
            if len(letters) == rank and fnmatch.fnmatchcase(key, place):
                return letters
        return by_rank.get(rank) or "ABDEFGHIJKL"[:rank]

    return letters_of


def inputs_of_port(pair: Pair, theirs: Framework, ours: Framework) -> Inputs:
    """The port's arguments: as given, or the reference's with their axes in the port's order."""
    if pair.port_inputs is not None:
        return pair.port_inputs
    sides = axes_of(pair.axes, theirs), axes_of(pair.port_axes, ours)

    def moved(name: str, array: np.ndarray) -> np.ndarray:
        before, after = (axes("", "input", name, array.ndim) for axes in sides)
        if sorted(before) != sorted(after):
            return array
        return np.ascontiguousarray(array.transpose([before.index(axis) for axis in after]))

    return _mapped(pair.inputs, moved)


def cast(inputs: Inputs, dtype: str) -> Inputs:
    """The inputs with their floats in `dtype`."""
    kind = "float32" if dtype == MIXED else dtype
    return _mapped(
        inputs, lambda name, array: array.astype(kind) if array.dtype.kind == "f" else array
    )


def _mapped(inputs: Inputs, change: Callable[[str, np.ndarray], np.ndarray]) -> Inputs:
    template, arrays = flatten(inputs, is_array, records=True)
    changed = {name: change(name, array) for name, array in arrays}
    return fill(template, lambda slot: changed[slot.name])


def described(inputs: Inputs) -> list[Input]:
    """Name, size and sha256 of each array."""
    return [
        Input(
            name or "input",
            "x".join(map(str, array.shape)),
            hashlib.sha256(np.ascontiguousarray(array).data).hexdigest(),
        )
        for name, array in flatten(inputs, is_array)[1]
    ]
