"""One side of a training step: a model in one precision, its targets, its loss, its optimizer."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.auditing.pair import Built, Inputs, axes_of, cast, inputs_of_port
from parity.auditing.port import Port, naming_of
from parity.auditing.reference import Reference
from parity.auditing.training import Training
from parity.calls import Recorder, each_array, fill, flatten, is_array, needed, slots, whole
from parity.errors import InputError
from parity.frameworks.framework import Trainer
from parity.masks import Masks
from parity.names import Naming
from parity.on_disk import ArraysOnDisk
from parity.trace import Axes, Tap, tap_key
from parity.weights import Held, key_of

Arrays = Mapping[str, np.ndarray]
NORM = "norm before clipping"  # of all gradients, beside what an update makes of parameters


@dataclass(frozen=True)
class Holding:
    """Tensors of the reference, and what of one side holds them.

    Args:
        keys: the reference's, by which both sides are compared.
        paths: the side's.
        to_keys, to_paths: from the arrays of one to those of the other; gradients go the same way,
            since numbers are only moved.
        summed: the keys whose sum the first key stands for, where the side has only their sum.
    """

    keys: tuple[str, ...]
    paths: tuple[str, ...]
    to_keys: Callable[..., Sequence[np.ndarray]]
    to_paths: Callable[..., Sequence[np.ndarray]]
    summed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Side:
    """A model of a pair as training needs it; tensors are known by the reference's keys.

    Args:
        built: the model.
        inputs: its arguments, in its precision.
        targets, loss, make, schedule, decisions: its own of a `Training`.
        holdings: its float tensors.
        axes, naming: how its recorders see it.
        updating: updating(optimizer, gradients by path) makes the update as the side's own step
            does, and returns the norm before clipping; by default the optimizer is applied.
    """

    built: Built
    inputs: Inputs
    targets: tuple
    loss: Callable[..., Any]
    make: Callable[[Any], Any]
    holdings: Sequence[Holding]
    axes: Axes
    naming: Naming | None
    schedule: Callable[[Any], Any] | None = None
    decisions: Callable[..., Any] | None = None
    updating: Callable[[Any, Mapping[str, np.ndarray | None]], np.ndarray] | None = None

    @property
    def trainer(self) -> Trainer:
        """What its framework has for training."""
        return self.built.framework.trainer

    @property
    def model(self) -> Any:
        """The model itself."""
        return self.built.model

    @contextmanager
    def training(self) -> Iterator[Inputs]:
        """Inside it the model trains, on the inputs that it gives; its buffers come back."""
        with self.built.precision(), self.trainer.training(self.model, self.inputs) as inputs:
            before = self.state(self.buffers())
            try:
                yield inputs
            finally:
                self.assign(before)

    def recorder(self, execution: str, masks: Masks | None) -> Recorder:
        """Records the forward pass."""
        return self.built.framework.recorder(
            self.model,
            self.axes,
            execution,
            only=None,
            copies=True,
            naming=self.naming,
            masks=masks,
        )

    def gradient_recorder(self, execution: str, masks: Masks | None, loss: Any = None) -> Any:
        """Records the gradients of the loss, or of another function of the outputs."""
        trained = self.trainer.trained(self.model)
        targets = tuple(map(self.trainer.tensor, self.targets))
        return self.trainer.GradientRecorder(
            self.model,
            self.axes,
            loss or (lambda outputs: self.loss(outputs, *targets)),
            {
                key: (
                    [trained[path] for path in one.paths],
                    lambda *arrays, one=one, index=index: one.to_keys(*arrays)[index],
                )
                for one in self.holdings
                for index, key in enumerate(one.keys)
                if set(one.paths) <= set(trained)
            },
            execution,
            masks,
            self.naming,
        )

    @property
    def tensors(self) -> list[str]:
        """The keys of all."""
        return [key for one in self.holdings for key in one.keys]

    def parameters(self) -> list[str]:
        """The keys of what is trained."""
        trained = set(self.trainer.trained(self.model))
        return [key for one in self.holdings if trained & set(one.paths) for key in one.keys]

    def buffers(self) -> list[str]:
        """The keys of all else."""
        trained = set(self.parameters())
        return [key for key in self.tensors if key not in trained]

    def state(self, keys: Any) -> dict[str, np.ndarray]:
        """The values of these tensors now, as the reference holds them."""
        wanted, found = set(keys), {}
        variables = self.built.framework.variables(self.model) if wanted else {}
        for one in self.holdings:
            if wanted & set(one.keys):
                arrays = one.to_keys(*(variables[path].read() for path in one.paths))
                found |= dict(zip(one.keys, map(np.array, arrays), strict=True))
        return {key: value for key, value in found.items() if key in wanted}

    def assign(self, state: Arrays) -> None:
        """Gives tensors other values; what is held together is given together."""
        variables = self.built.framework.variables(self.model)
        for one in self.holdings:
            if set(one.keys) <= set(state):
                arrays = one.to_paths(*(state[key] for key in one.keys))
                for path, array in zip(one.paths, arrays, strict=True):
                    variables[path].assign(np.ascontiguousarray(array))

    def seen(self, state: Arrays) -> Arrays:
        """Values of the reference as this side could have them: what it has the sum of, summed."""
        hidden = self.hidden()
        if not hidden:
            return state
        found = dict(state)
        for one in self.holdings:
            if one.summed and one.keys[0] in state:
                found[one.keys[0]] = sum(
                    (state[key] for key in one.summed[1:] if key in state),
                    start=state[one.keys[0]],
                )
        return {key: value for key, value in found.items() if key not in hidden}

    def hidden(self) -> set[str]:
        """The keys of what this side has only in a sum with another tensor."""
        return {key for one in self.holdings for key in one.summed[1:]}

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Every tensor has its value of before again at the end."""
        before = ArraysOnDisk(self.state(self.tensors))
        try:
            yield
        finally:
            self.assign(before)

    def optimizer(self) -> Any:
        """A new optimizer."""
        with self.built.precision():
            return self.trainer.optimizer(self.make, self.model)

    def scheduled(self, optimizer: Any) -> Callable[[int], None]:
        """What sets the optimizer's rates for an update by its number, none before the last.

        Where the scheduler can compute the rates from the number alone, it does; else it is
        stepped there.
        """
        if self.schedule is None:
            return lambda number: None
        made, now = self.schedule(optimizer), 0

        def arrive(number: int) -> None:
            nonlocal now
            with warnings.catch_warnings():  # that no update came before it is meant
                warnings.simplefilter("ignore")
                if number > now + 1 and _of_the_number(made):
                    made.step(number)
                    now = number
                while now < number:
                    made.step()
                    now += 1

        return arrive

    def update(
        self, optimizer: Any, gradients: Mapping[str, np.ndarray | None], execution: str = "eager"
    ) -> Arrays:
        """One update by the reference's gradients; returns what clipping left of them, by key, or
        of a step of its own the norm before, under `NORM`."""
        held: dict[str, np.ndarray | None] = {}
        for one in self.holdings:
            own = [gradients.get(key) for key in one.keys]
            arrays: Sequence[np.ndarray | None] = [None] * len(one.paths)
            if any(each is not None for each in own):
                lacking = [key for key in one.keys if gradients.get(key) is None]
                zeros = {key: 0 * value for key, value in self.state(lacking).items()}
                arrays = one.to_paths(
                    *(zeros[key] if key in zeros else gradients[key] for key in one.keys)
                )
            held |= dict(zip(one.paths, arrays, strict=True))
        with self.built.precision():
            if self.updating is not None:
                return {NORM: self.updating(optimizer, held)}
            left = self.trainer.update(optimizer, self.model, held, execution)
        found = {}
        for one in self.holdings:
            if set(one.paths) <= set(left):
                arrays = one.to_keys(*(left[path] for path in one.paths))
                found |= dict(zip(one.keys, arrays, strict=True))
        return found

    def outputs(self, recorder: Recorder, taps: Mapping[str, Tap]) -> Any:
        """The structure of the last run's outputs with the arrays of the reference's `taps`."""

        def array(slot: Any) -> np.ndarray:
            given = {name: taps[tap_key("", "output", name)] for name in needed(slot.name)}
            found = recorder.fed_array("", "output", slot, given)
            if found is None:
                raise InputError(
                    f"the output `{slot.name}` has other axes than the reference's",
                    f"the reference's are {' and '.join(tap.axes for tap in given.values())}",
                    "name the same axes on both sides, in `axes` and `port_axes`",
                )
            dtype = self.built.dtype if found.dtype.kind == "f" else found.dtype
            return np.ascontiguousarray(found, dtype)

        return fill(recorder.calls[0].results, array)

    def alone(
        self, recorder: Recorder, taps: Mapping[str, Tap], execution: str
    ) -> tuple[Arrays, dict[str, Tap]]:
        """The terms of the loss on the reference's outputs, and its gradients by output."""
        outputs = self.outputs(recorder, taps)
        arrays = dict(flatten(outputs, is_array, records=True)[1])
        theirs = [slot.name for slot in slots(recorder.calls[0].results)]
        names = dict(zip(arrays, theirs, strict=True))
        with self.built.precision():
            terms, gradients = self.trainer.differentiated(
                self.loss, outputs, self.targets, execution
            )
        found: dict[str, Tap] = {}
        put = recorder.viewed(lambda seen: found.update({seen.key: seen}))
        for own, name in names.items():
            gradient = gradients.get(own)
            if gradient is None and whole(name) is not None:  # the stack has zeros there
                gradient = 0 * arrays[own]
            if gradient is not None:
                axes = self.axes("", "output", name, gradient.ndim)
                put(Tap("", "grad_output", name, 0, axes, gradient))
        return terms, found


def reference_side(reference: Reference, training: Training, dtype: str) -> Side:
    """The reference in one precision; raises InputError where its framework cannot be trained."""
    pair = reference.pair
    built = reference.built_in(dtype)
    check_trainable(built, "reference")
    return Side(
        built,
        cast(pair.inputs, dtype),
        cast_targets(training.targets, dtype),
        training.loss,
        training.optimizer,
        own_holdings(built),
        axes_of(pair.axes, built.framework),
        pair.names.reference_side(),
        training.schedule,
        training.decisions,
    )


def own_holdings(built: Built, named: Callable[[str], str] = lambda owner: owner) -> list[Holding]:
    """Each variable of a module as one tensor, known by what `named` calls the module."""
    return [
        Holding(
            (key_of(named(one.owner), one.name),),
            (path,),
            lambda array, one=one: [one.layout.to_reference(array)],
            lambda array, one=one: [one.layout.to_port(array)],
        )
        for path, one in built.framework.variables(built.model).items()
        if one.owner is not None
    ]


def port_side(reference: Reference, port: Port, training: Training, dtype: str) -> Side:
    """The port in one precision, with the reference's weights.

    Raises InputError where its framework cannot be trained, and where nothing says which of its
    variables belong to which tensors.
    """
    pair = reference.pair
    built, held = (port.float64, port.held) if dtype == "float64" else (port.float32, port.held32)
    check_trainable(built, "port")
    if not held:
        raise InputError(
            "nothing says which variables of the port are trained with which of the reference",
            "the pair has no `Weights`",
            "declare them, or leave `training` out",
        )
    targets = training.targets if training.port_targets is None else training.port_targets
    axes = axes_of(pair.port_axes, built.framework)
    return Side(
        built,
        cast(inputs_of_port(pair, reference.framework, built.framework), dtype),
        cast_targets(targets, dtype),
        training.port_loss,
        training.port_optimizer,
        [_holding(one, reference.state) for one in held],
        axes,
        naming_of(reference, axes),
        training.port_schedule,
        training.port_decisions or training.decisions,
    )


def _holding(held: Held, state: Arrays) -> Holding:
    """How the port holds some tensors; raises InputError where no gradient can be led back."""
    joint, keys = held.joint, tuple(held.keys)

    def back(*arrays: np.ndarray) -> list[np.ndarray]:
        return [
            layout.to_reference(array) for layout, array in zip(held.layouts, arrays, strict=True)
        ]

    def there(*arrays: np.ndarray) -> list[np.ndarray]:
        return [layout.to_port(array) for layout, array in zip(held.layouts, arrays, strict=True)]

    if len(joint.port) == 1 < len(keys) and all(
        np.array_equal(state[key], state[keys[0]]) for key in keys
    ):  # one tensor under several names, of which the first is trained
        return Holding(
            keys[:1],
            tuple(joint.port),
            back,
            lambda array: there(*joint.to_port(*[array] * len(keys))),
        )
    if not joint.reason:
        return Holding(
            keys,
            tuple(joint.port),
            lambda *arrays: joint.to_reference(*back(*arrays)),
            lambda *arrays: there(*joint.to_port(*arrays)),
        )
    given = [state[key].astype(np.float64) for key in keys]
    made = joint.to_port(*given)
    alike = len(made) == 1 and all(one.shape == made[0].shape for one in given)
    if alike and np.array_equal(made[0], sum(given[1:], start=given[0])):
        return Holding(keys[:1], tuple(joint.port), back, there, keys)
    raise InputError(
        f"no gradient leads from {' and '.join(joint.port)} back to {' and '.join(keys)}",
        joint.reason,
        "give the port a variable for each, or leave `training` out",
    )


def _of_the_number(scheduler: Any) -> bool:
    """Whether PyTorch's `step(number)` gives this scheduler's rates: by a closed form that it says
    it has, or as a function of the number, which `LambdaLR` takes."""
    kinds = {kind.__name__ for kind in type(scheduler).__mro__}
    return hasattr(scheduler, "_get_closed_form_lr") or "LambdaLR" in kinds


def check_trainable(built: Built, side: str) -> None:
    """Raises InputError where a model's framework cannot be trained."""
    if built.framework.trainer is None:
        raise InputError(
            f"the {side} is a model of {built.framework.NAME}, whose training cannot be compared",
            "its framework has no `trainer`",
            "leave `training` out",
        )


def cast_targets(targets: tuple, dtype: str) -> tuple:
    """Targets with their floats in `dtype`."""
    return each_array(
        targets, lambda array: array.astype(dtype) if array.dtype.kind == "f" else array
    )
