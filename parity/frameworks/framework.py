"""What the engine needs of a framework; each is a module, or any object, with these parts."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from parity.calls import Recorder
from parity.causes.explain import Case, Explanation
from parity.localise import ReferenceRecorder
from parity.metrics import Gap
from parity.names import Naming
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
        observe: Callable[[Any], None],
    ) -> dict[str, Gap]: ...


class Explain(Protocol):
    """The likely causes of what one module of the port does; see `parity.causes.explain`.

    `reference` is the recorder of the side in which mistakes are planted.
    """

    def __call__(
        self, reference: ReferenceRecorder, case: Case, weights: Mapping[str, Any]
    ) -> list[Explanation]: ...


class Framework(Protocol):
    """One framework.

    Attributes:
        NAME: as people know it.
        EXECUTIONS: how its models can be run; in the first, modules run alone.
        IMAGES: the axes of an image's tensor by their number, as its layers have them by default.
        measure_floors: None where its models cannot be a reference.
        copied: copied(model, dtype) is a copy of a given model that computes in `dtype`; None where
            what is built keeps its precision.
        explain: plants mistakes in a reference of this framework; None where it cannot.
        mend: does the same in a port of this framework, beside a reference of another.
        GradientRecorder: records gradients (`parity.gradients`); None where it cannot.
    """

    NAME: str
    EXECUTIONS: tuple[str, ...]
    IMAGES: Mapping[int, str]
    measure_floors: MeasureFloors | None
    copied: Callable[[Any, str], Any] | None
    explain: Explain | None
    mend: Explain | None
    GradientRecorder: type | None

    def converted(self, model: Any, dtype: str) -> Any:
        """A model that was built inside `precision(dtype)`, computing in `dtype`."""

    def precision(self, dtype: str) -> AbstractContextManager:
        """Inside it models are built and run to compute in `dtype`."""

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
    ) -> Recorder:
        """Records the taps of runs in one execution.

        `copies` says whether tensors may be changed in place after they were recorded. That of a
        reference is a `parity.localise.ReferenceRecorder` as well.
        """

    def capture_effects(self, recorder: Any, inputs: Any, captured: Any) -> dict[str, float]:
        """What reading the taps changes: the largest gap of an output by what it is compared with,
        "same program" without taps and "production"; without an entry, it is not measured."""
