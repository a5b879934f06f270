"""One side of a training step: a model in one precision, its targets, its loss, its optimizer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.auditing.pair import Built, Inputs, axes_of, build, cast, inputs_of_port
from parity.auditing.port import Port, places_of
from parity.auditing.reference import Reference
from parity.calls import Recorder, fill, is_array
from parity.errors import InputError
from parity.frameworks.framework import Trainer
from parity.masks import Masks
from parity.names import Naming
from parity.trace import Axes, Tap, tap_key
from parity.training.declared import Training
from parity.weights import Layout, key_of

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Side:
    """A model of a pair as training needs it; tensors are known by the reference's keys.

    Args:
        built: the model.
        inputs: its arguments, in its precision.
        targets, loss, make, decisions: its own of a `Training`.
        tensors: its float tensors: the path and the layout of each, by the reference's key.
        axes, naming: how its recorders see it.
    """

    built: Built
    inputs: Inputs
    targets: tuple
    loss: Callable[..., Any]
    make: Callable[[Any], Any]
    tensors: Mapping[str, tuple[str, Layout]]
    axes: Axes
    naming: Naming | None
    decisions: Callable[..., Any] | None = None

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
                key: (trained[path], layout.to_reference)
                for key, (path, layout) in self.tensors.items()
                if path in trained
            },
            execution,
            masks,
            self.naming,
        )

    def parameters(self) -> list[str]:
        """The keys of what is trained."""
        trained = self.trainer.trained(self.model)
        return [key for key, (path, _) in self.tensors.items() if path in trained]

    def buffers(self) -> list[str]:
        """The keys of all else."""
        trained = set(self.parameters())
        return [key for key in self.tensors if key not in trained]

    def state(self, keys: Any) -> dict[str, np.ndarray]:
        """The values of these tensors now, as the reference holds them."""
        variables = self.built.framework.variables(self.model)
        return {
            key: np.array(layout.to_reference(variables[path].read()))
            for key, (path, layout) in self.tensors.items()
            if key in keys
        }

    def assign(self, state: Arrays) -> None:
        """Gives tensors other values."""
        variables = self.built.framework.variables(self.model)
        for key, value in state.items():
            path, layout = self.tensors[key]
            variables[path].assign(layout.to_port(value))

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Every tensor has its value of before again at the end."""
        before = self.state(self.tensors)
        try:
            yield
        finally:
            self.assign(before)

    def optimizer(self) -> Any:
        """A new optimizer."""
        with self.built.precision():
            return self.trainer.optimizer(self.make, self.model)

    def update(
        self, optimizer: Any, gradients: Mapping[str, np.ndarray | None], execution: str = "eager"
    ) -> Arrays:
        """One update by the reference's gradients; returns what clipping left of them, by key."""
        held = {
            self.tensors[key][0]: None if one is None else self.tensors[key][1].to_port(one)
            for key, one in gradients.items()
        }
        with self.built.precision():
            left = self.trainer.update(optimizer, self.model, held, execution)
        keys = {path: key for key, (path, _) in self.tensors.items()}
        return {
            keys[path]: self.tensors[keys[path]][1].to_reference(one)
            for path, one in left.items()
            if path in keys
        }

    def outputs(self, recorder: Recorder, taps: Mapping[str, Tap]) -> Any:
        """The structure of the last run's outputs with the arrays of the reference's `taps`."""

        def array(slot: Any) -> np.ndarray:
            tap = taps[tap_key("", "output", slot.name)]
            found = recorder.fed_array("", "output", slot, tap)
            if found is None:
                raise InputError(
                    f"the output `{slot.name}` has other axes than the reference's",
                    f"the reference's are {tap.axes}",
                    "name the same axes on both sides, in `axes` and `port_axes`",
                )
            dtype = self.built.dtype if found.dtype.kind == "f" else found.dtype
            return np.ascontiguousarray(found, dtype)

        return fill(recorder.calls[0].results, array)

    def alone(
        self, recorder: Recorder, taps: Mapping[str, Tap], execution: str
    ) -> tuple[Arrays, dict[str, Tap]]:
        """The terms of the loss on the reference's outputs, and its gradients by output."""
        with self.built.precision():
            terms, gradients = self.trainer.differentiated(
                self.loss, self.outputs(recorder, taps), self.targets, execution
            )
        found: dict[str, Tap] = {}
        for name, gradient in gradients.items():
            axes = self.axes("", "output", name, gradient.ndim)
            tap = Tap("", "grad_output", name, 0, axes, gradient)
            recorder.viewed(lambda seen: found.update({seen.key: seen}))(tap)
        return terms, found


def reference_side(reference: Reference, training: Training, dtype: str) -> Side:
    """The reference in one precision; raises InputError where its framework cannot be trained."""
    pair = reference.pair
    built = build(pair.reference, dtype)
    _check(built, "reference")
    variables = built.framework.variables(built.model)
    return Side(
        built,
        cast(pair.inputs, dtype),
        _cast(training.targets, dtype),
        training.loss,
        training.optimizer,
        {
            key_of(one.owner, one.name): (path, one.layout)
            for path, one in variables.items()
            if one.owner is not None
        },
        axes_of(pair.axes, built.framework),
        pair.names.reference_side(),
        training.decisions,
    )


def port_side(reference: Reference, port: Port, training: Training, dtype: str) -> Side:
    """The port in one precision, with the reference's weights.

    Raises InputError where its framework cannot be trained, and where nothing says which of its
    variables belong to which tensors.
    """
    pair = reference.pair
    built, held = (port.float64, port.held) if dtype == "float64" else (port.float32, port.held32)
    _check(built, "port")
    if not held:
        raise InputError(
            "nothing says which variables of the port are trained with which of the reference",
            "the pair has no `Weights`",
            "declare them, or leave `training` out",
        )
    targets = training.targets if training.port_targets is None else training.port_targets
    return Side(
        built,
        cast(inputs_of_port(pair, reference.framework, built.framework), dtype),
        _cast(targets, dtype),
        training.port_loss,
        training.port_optimizer,
        {one.key: (one.path, one.layout) for one in held},
        axes_of(pair.port_axes, built.framework),
        pair.names.port_side(places_of(reference.trace)),
        training.port_decisions or training.decisions,
    )


def _check(built: Built, side: str) -> None:
    if built.framework.trainer is None:
        raise InputError(
            f"the {side} is a model of {built.framework.NAME}, whose training cannot be compared",
            "its framework has no `trainer`",
            "leave `training` out",
        )


def _cast(targets: tuple, dtype: str) -> tuple:
    return tuple(
        one.astype(dtype) if is_array(one) and one.dtype.kind == "f" else one for one in targets
    )
