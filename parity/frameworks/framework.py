"""What the engine needs of a framework; each is a module, or any object, with these parts."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from parity.calls import Recorder
from parity.causes.case import Case, Explanation
from parity.localise import ReferenceRecorder
from parity.masks import Masks
from parity.metrics import Gap
from parity.names import Naming
from parity.pairing import Comparison
from parity.trace import Axes, Tap
from parity.weights import Variable


class MeasureFloors(Protocol):
    """How far rounding alone moves each tap of the reference, by key."""

    def __call__(
        self,
        recorder: Any,
        inputs: tuple | dict,
        reference: Mapping[str, Tap],
        *,
        seeds: Sequence[int] = (0,),
        reorder: bool = True,
        observe: Callable[[Any], None],
        compare: Callable[[Mapping[str, Tap]], Comparison] = Comparison,
    ) -> dict[str, Gap]: ...


class Explain(Protocol):
    """The likely causes of what one module of the port does; see `parity.causes.explain`.

    `reference` is the recorder of the side in which mistakes are planted.
    """

    def __call__(
        self, reference: ReferenceRecorder, case: Case, weights: Mapping[str, Any]
    ) -> list[Explanation]: ...


class Trainer(Protocol):
    """What comparing a training step needs of a framework.

    Paths are those of `Framework.variables`; arrays are as the framework holds them. Nothing here
    knows the other side.

    Attributes:
        GradientRecorder: GradientRecorder(model, axes, loss, parameters, execution, masks, naming)
            records gradients (`parity.gradients`): called with inputs it returns the loss and the
            trace, and keeps the `terms` of the loss.
    """

    GradientRecorder: type

    def trained(self, model: Any) -> Mapping[str, Any]:
        """What training changes by gradients, by path; what else `variables` has are buffers."""

    def training(self, model: Any, inputs: tuple | dict) -> AbstractContextManager[tuple | dict]:
        """Inside it the model runs as in training, given the inputs that it gives; modules that
        run alone do too."""

    def tensor(self, value: Any) -> Any:
        """A structure, such as a list of mappings, with tensors in place of its arrays."""

    def differentiated(
        self, loss: Callable[..., Any], outputs: Any, targets: tuple, execution: str
    ) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
        """The terms of loss(outputs, *targets), and the gradient of their sum by each float output.

        `outputs` and `targets` are structures of arrays, which become tensors; gradients
        are named as `parity.calls.flatten` names the outputs, and left out where there is none.
        """

    def optimizer(self, make: Callable[[Any], Any], model: Any) -> Any:
        """What the user's function makes, ready for `update`: of PyTorch it is given the named
        parameters, of others the model."""

    def update(
        self,
        optimizer: Any,
        model: Any,
        gradients: Mapping[str, np.ndarray | None],
        execution: str = ...,
    ) -> Mapping[str, np.ndarray]:
        """One update of the model by these gradients by path, None where there is none; returns
        what clipping left of them, empty where that cannot be seen."""

    def recipe(self, optimizer: Any, model: Any) -> tuple[Any, Mapping[str, Any]] | None:
        """The optimizer's `parity.frameworks.shared.recipes.Recipe`, the rate and the decay of each
        parameter by path; None where its rule is not known."""

    def arrive(self, optimizer: Any, step: int) -> None:
        """Lets the optimizer, which has made an update, count as if it had made `step`."""

    def rates(self, optimizer: Any, step: int) -> list[float] | None:
        """The learning rate of each group for update `step`; None where it cannot be asked."""


class Framework(Protocol):
    """One framework.

    Attributes:
        NAME: as people know it.
        EXECUTIONS: how its models can be run; in the first, modules run alone.
        PRECISIONS: precisions beside float32 and float64. May be left out.
        ASKED_FOR: further executions of the forward pass, which take long to prepare; they are run
            only where they are named. May be left out.
        IMAGES: the axes of an image's tensor by their number, as its layers have them by default.
        by_default: by_default(recorder, inputs) are the outputs where nobody says whether the model
            trains. May be left out where the model itself knows it, in its mode.
        measure_floors: None where its models cannot be a reference.
        copied: copied(model, dtype) is a copy of a given model that computes in `dtype`; None where
            what is built keeps its precision.
        explain: plants mistakes in a reference of this framework; None where it cannot.
        mend: does the same in a port of this framework, beside a reference of another.
        trainer: what a training step needs; None where its models cannot be trained here.
    """

    NAME: str
    EXECUTIONS: tuple[str, ...]
    IMAGES: Mapping[int, str]
    measure_floors: MeasureFloors | None
    copied: Callable[[Any, str], Any] | None
    explain: Explain | None
    mend: Explain | None
    trainer: Trainer | None

    def converted(self, model: Any, dtype: str) -> Any:
        """A model that was built inside `precision(dtype)`, computing in `dtype`."""

    def precision(self, dtype: str) -> AbstractContextManager:
        """Inside it models are built and run to compute in `dtype`; `MIXED` too where the framework
        names that among its `PRECISIONS`, and `converted` makes float32 of it."""

    def in_training(self, model: Any) -> bool:
        """Whether two runs of the model would differ, by dropout or batch statistics."""

    def modules(self, model: Any) -> Mapping[str, Any]:
        """Every module of a built model by path; the model itself is ""."""

    def variables(self, model: Any) -> Mapping[str, Variable]:
        """The float tensors of a built model by path: its weights, to be read and assigned."""

    def recorder(
        self,
        model: Any,
        axes: Axes,
        execution: str,
        *,
        only: str | None,
        copies: bool,
        naming: Naming | None,
        masks: Masks | None = None,
    ) -> Recorder:
        """Records the taps of runs in one execution, which take their dropout from `masks`.

        `copies` says whether tensors may be changed in place after they were recorded. That of a
        reference is a `parity.localise.ReferenceRecorder` as well.
        """

    def capture_effects(self, recorder: Any, inputs: Any, captured: Any) -> dict[str, float]:
        """What reading the taps changes: the largest gap of an output by what it is compared with,
        "same program" without taps and "production"; without an entry, it is not measured."""
