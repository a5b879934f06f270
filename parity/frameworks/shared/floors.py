"""How far rounding alone moves the tensors of a reference, in any framework."""

import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from parity.calls import Call, Feeds, fill, flatten
from parity.metrics import Gap, perturb_ulp, worst
from parity.pairing import Comparison, tap_gap
from parity.trace import Tap
from parity.weights import Variable


class Moving:
    """What a recorder needs so that its model can be a reference, beside recording.

    Subclasses are `parity.calls.Recorder`s and provide `variables` and `reordered`.
    """

    @staticmethod
    @abstractmethod
    def variables(model: Any) -> Mapping[str, Variable]:
        """The weights of the model by path, as `Framework.variables`."""

    @staticmethod
    @abstractmethod
    def reordered() -> AbstractContextManager:
        """Inside it every sum of products, norm and softmax is computed with its terms in reverse
        order: the results are mathematically the same, only rounding differs."""

    @contextmanager
    def moved(self, path: str, seed: int) -> Iterator[None]:
        """The module at `path` with each weight moved by up to one unit in the last place.

        The weights come back when the context ends, bit for bit.
        """
        weights = _of_module(self.variables(self.model), path)
        before = {key: np.array(one.read()) for key, one in weights.items()}
        try:
            for key, one in weights.items():
                one.assign(perturb_ulp(before[key], mixed(seed, key)))
            yield
        finally:
            for key, one in weights.items():
                one.assign(before[key])

    def perturbed(self, seed: int) -> AbstractContextManager:
        """The whole model with its weights moved by up to one unit in the last place."""
        return self.moved("", seed)

    def stopped_gradients(self, alone: Any) -> Iterable[Any]:
        """The mistakes of stopping one gradient: none, they are planted in PyTorch only."""
        return ()

    def owns_parameters(self, path: str) -> bool:
        """Whether the module itself, apart from its children, holds parameters."""
        return any(one.owner == path for one in self.variables(self.model).values())

    def isolated_floors(
        self,
        call: Call,
        feeds: Feeds,
        children: Mapping[tuple[str, int], Feeds],
        expected: Mapping[str, Tap],
        seeds: Sequence[int] = (0, 1),
    ) -> dict[str, Gap]:
        """How far rounding alone moves the taps of a module that is run alone, from `expected`.

        Inputs, stand-ins and weights are moved by up to one unit in the last place, once per seed,
        and sums are reordered once; the largest gap of each tap counts. Arguments as in `isolate`.
        """
        runs = []
        for seed in seeds:
            with self.moved(call.path, seed):
                runs.append(self.isolate(call, feeds, children, moved=_Moved(seed)))
        with self.reordered():
            runs.append(self.isolate(call, feeds, children))
        return {
            key: worst(tap_gap(run[key], tap) for run in runs if key in run)
            for key, tap in expected.items()
        }


def measure_floors(
    recorder: Any,
    inputs: tuple | dict,
    reference: Mapping[str, Tap],
    *,
    seeds: Sequence[int] = (0,),
    reorder: bool = True,
    observe: Callable[[Any], None] = lambda outputs: None,
    compare: Callable[[Mapping[str, Tap]], Comparison] = Comparison,
) -> dict[str, Gap]:
    """How far rounding alone moves each tap of a model from the same taps of `reference`.

    The model is run once per seed with inputs and weights moved by up to one unit in the last
    place, and once with its sums reordered; the largest gap of each tap counts. With a float64
    model and its own trace this is the floor of the float64 claim; with a float32 model and the
    float64 trace that of the float32 claim. `observe` receives the outputs of each of these runs,
    `compare` makes what compares its taps with those of `reference`.
    """
    found: list[dict[str, Gap]] = []
    for seed in seeds:
        comparison = compare(reference)
        with recorder.moved("", seed):
            observe(recorder(perturb_inputs(inputs, seed), comparison)[0])
        found.append(comparison.gaps)
    if reorder:
        comparison = compare(reference)
        with recorder.reordered():
            observe(recorder(inputs, comparison)[0])
        found.append(comparison.gaps)
    keys = [key for key in reference if any(key in gaps for gaps in found)]
    return {key: worst(gaps[key] for gaps in found if key in gaps) for key in keys}


def perturb_inputs(inputs: tuple | dict, seed: int) -> tuple | dict:
    """The inputs with each float array moved by up to one unit in the last place, as numpy."""
    template, arrays = flatten(inputs, lambda value: hasattr(value, "__array__"), records=True)
    moved = {name: perturb_ulp(np.asarray(array), mixed(seed, name)) for name, array in arrays}
    return fill(template, lambda slot: moved[slot.name])


def mixed(seed: int, name: str) -> int:
    """A seed of its own for each name."""
    return zlib.crc32(f"{seed} {name}".encode())


def _of_module(weights: Mapping[str, Variable], path: str) -> dict[str, Variable]:
    """The weights of a module and those below it; of the whole model those without an owner too."""
    return {
        key: one
        for key, one in weights.items()
        if not path or one.owner == path or (one.owner or "").startswith(f"{path}.")
    }


class _Moved:
    """Moves the array of each tap by up to one unit in the last place, always the same way."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, tap: Tap) -> Tap:
        return replace(tap, array=perturb_ulp(tap.array, mixed(self._seed, tap.key)))
