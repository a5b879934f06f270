"""What is known of one model of a pair before anything is paired: weights, calls, tensors."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from parity.auditing.pair import Built, Inputs, cast
from parity.names import Names
from parity.trace import Axes, Tap
from parity.weights import SAME, Layout


@dataclass(frozen=True, eq=False)
class Weight:
    """One float tensor of a model.

    Args:
        owner: path of the module that it belongs to; None where none is known.
        name: what PyTorch calls such a tensor of such a module.
        held: its numbers as the model holds them, or, of a reference, as its state has them.
        layout: how it is held, by the kind of its owner.
        of_known_kind: whether its owner is of a kind that holds such a tensor in one layout.
    """

    owner: str | None
    name: str
    held: np.ndarray
    layout: Layout = SAME
    of_known_kind: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """As it is held."""
        return self.held.shape

    @property
    def array(self) -> np.ndarray:
        """Its numbers as a reference has them."""
        return self.layout.to_reference(self.held)


@dataclass(frozen=True)
class Called:
    """One call of a module, and the path of the module that made it; None for the model's own."""

    path: str
    call: int
    parent: str | None


@dataclass(frozen=True, eq=False)
class Side:
    """One model: its weights by path, modules in its own order, calls in that of execution.

    `taps` are the tensors of one run by key, `trained` the paths of weights that training changes;
    of a reference, it is not asked.
    """

    weights: Mapping[str, Weight]
    modules: Sequence[str]
    calls: Sequence[Called] = ()
    taps: Mapping[str, Tap] = field(default_factory=dict)
    trained: Collection[str] = ()

    @cached_property
    def first_calls(self) -> dict[str, int]:
        """Number of the first call of each module that was called, in order of execution."""
        first: dict[str, int] = {}
        for index, called in enumerate(self.calls):
            first.setdefault(called.path, index)
        return first

    @cached_property
    def positions(self) -> dict[str, int]:
        """Number of each module in the model's own order."""
        return {path: index for index, path in enumerate(self.modules)}

    def order(self, path: str | None) -> tuple[int, int]:
        """A key that sorts modules as they are called; one that is not called goes with the
        nearest around it that is."""
        around = path
        while around and around not in self.first_calls:
            around = around.rpartition(".")[0]
        end = len(self.calls) + len(self.modules)
        first = self.first_calls.get(around or "", end)
        return first, self.positions.get(path or "", end)

    def tensors(self, path: str, kind: str, call: int = 0) -> dict[str, Tap]:
        """The tensors of one call by name, in order."""
        return self._by_call.get((path, kind, call), {})

    def count(self, path: str) -> int:
        """How often a module is called."""
        return self._counts.get(path, 0)

    @cached_property
    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for called in self.calls:
            counts[called.path] = counts.get(called.path, 0) + 1
        return counts

    @cached_property
    def _by_call(self) -> dict[tuple[str, str, int], dict[str, Tap]]:
        found: dict[tuple[str, str, int], dict[str, Tap]] = {}
        for tap in self.taps.values():
            found.setdefault((tap.path, tap.kind, tap.call), {})[tap.name] = tap
        return found


def see(built: Built, axes: Axes, inputs: Inputs, *, reference: bool) -> Side:
    """Runs a model once, and describes it.

    The weights of a `reference` have the keys of its state, those of a port the paths of its
    variables.
    """
    framework = built.framework
    recorder = framework.recorder(
        built.model,
        axes,
        framework.EXECUTIONS[0],
        only=None,
        copies=True,
        naming=Names().port_side({}),
    )
    with built.precision():
        _, trace = recorder(cast(inputs, built.dtype))
    weights = {}
    for path, one in framework.variables(built.model).items():
        held = np.asarray(one.read())
        if not reference:
            weights[path] = Weight(one.owner, one.name, held, one.layout, one.of_known_kind)
        elif one.owner is not None:
            key = f"{one.owner}.{one.name}" if one.owner else one.name
            array = one.layout.to_reference(held)
            weights[key] = Weight(one.owner, one.name, array, of_known_kind=one.of_known_kind)
    calls = [
        Called(call.path, call.call, call.parent and call.parent.path) for call in recorder.calls
    ]
    trainer = framework.trainer
    trained = () if reference or trainer is None else tuple(trainer.trained(built.model))
    return Side(weights, list(recorder.modules), calls, trace, trained)
