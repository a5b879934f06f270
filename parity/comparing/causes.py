"""Why a function differs: what the port seems to do, by what makes the reference do the same."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from parity.calls import fill, flatten, is_array
from parity.comparing.relations import CLOSE, SHIFTS, Same, close, independent, relations
from parity.comparing.running import Function, Inputs, Refusal

Pairs = Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]
"""By result, and case: the port's array and the reference's."""

KEPT = 3
MOST_CLASSES = 40
MOST_ENTRIES = 64
STEPS = 12  # of the search for one number


def find(reference: Function, given: Mapping[str, Inputs], pairs: Pairs) -> list[str]:
    """The likeliest causes, at most `KEPT`; none where nothing that was tried explains all.

    A cause explains every result of every case in float64, to rounding; and there are at least two
    numbers that could contradict it.
    """
    search = _Search(reference, given, pairs)
    found = itertools.chain(
        search.sums(), search.planted(), search.changed_inputs(), search.related(), search.entries()
    )
    return list(dict.fromkeys(itertools.islice(found, KEPT)))


class _Search:
    """Tries what could explain a difference on all cases."""

    def __init__(self, reference: Function, given: Mapping[str, Inputs], pairs: Pairs) -> None:
        self.reference, self.given, self.pairs = reference, given, pairs
        self.same: Same = close()
        self.cases = list(dict.fromkeys(name for by_case in pairs.values() for name in by_case))
        self.enough = independent([one for by in pairs.values() for one in by.values()]) > 1

    def sums(self) -> Iterator[str]:
        """A sum for a mean, or a mean for a sum, over an axis of an input."""
        if len(self.cases) < 2:
            return
        for name, labels in self._weighted():
            weights = {
                case: float(
                    self._array(case, name)[self._array(case, labels)].sum(dtype=np.float64)
                )
                for case in self.cases
            }
            if self._scaled(weights.__getitem__):
                yield f"it sums, where the reference takes the mean weighted by input `{name}`"
        sizes = [self._sizes(name) for name in self.cases]
        for place in sizes[0]:
            counts = [one.get(place) for one in sizes]
            if None in counts or len(set(counts)) < 2:
                continue
            by_case = dict(zip(self.cases, counts, strict=True))
            name, axes = place
            where = f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes))}"
            if self._scaled(lambda case, by=by_case: float(by[case])):
                yield f"it sums over {where} of input `{name}`, where the reference takes the mean"
            elif self._scaled(lambda case, by=by_case: 1.0 / by[case]):
                yield f"it takes the mean over {where} of input `{name}`, where the reference sums"

    def _weighted(self) -> Iterator[tuple[str, str]]:
        """Inputs that can be weights of classes, each with one that can be the classes."""
        arrays = flatten(self.given[self.cases[0]], is_array)[1]
        vectors = [(name, one) for name, one in arrays if one.ndim == 1 and one.size]
        for name, weights in vectors:
            for other, labels in vectors:
                if weights.dtype.kind == "f" and labels.dtype.kind in "iu":
                    labels = np.concatenate([self._array(case, other) for case in self.cases])
                    if 0 <= labels.min() <= labels.max() < len(weights):
                        yield name, other

    def _array(self, case: str, name: str) -> np.ndarray:
        return dict(flatten(self.given[case], is_array)[1])[name]

    def _sizes(self, case: str) -> dict[tuple[str, tuple[int, ...]], int]:
        """How many numbers lie along each choice of axes of each input."""
        found = {}
        for name, array in flatten(self.given[case], is_array)[1]:
            axes = range(min(array.ndim, 4))
            for count in range(1, len(axes) + 1):
                for chosen in itertools.combinations(axes, count):
                    found[name, chosen] = int(np.prod([array.shape[axis] for axis in chosen]))
        return found

    def _scaled(self, factor: Callable[[str], float]) -> bool:
        return all(
            self.same(ours, theirs * factor(case))
            for by_case in self.pairs.values()
            for case, (ours, theirs) in by_case.items()
        )

    def planted(self) -> Iterator[str]:
        """A mistake at one operation of a reference of PyTorch."""
        framework = self.reference.framework
        if framework is None or framework.explain is None or not self.enough:
            return
        from parity.causes.explain import explain_values

        ours = {
            f"{case}:{key}": one
            for key, by_case in self.pairs.items()
            for case, (one, _) in by_case.items()
        }
        if any(one.dtype.kind != "f" for one in ours.values()):
            return

        def run() -> dict[str, Any]:
            found = {}
            for case in self.cases:
                outputs = self.reference.run(self.given[case], "float64")
                if isinstance(outputs, Refusal):
                    raise ValueError(outputs.text)
                found |= {f"{case}:{key}": one for key, one in outputs.items()}
            return found

        for one in explain_values(run, ours, CLOSE):
            if not one.text.startswith("the reference's value times"):
                yield one.text

    def changed_inputs(self) -> Iterator[str]:
        """The reference with another input: in another order, without a class."""
        for name, array in flatten(self.given[self.cases[0]], is_array)[1]:
            for text, change in _changes(array):
                if self._explains(name, change):
                    yield text.format(name=name)
            if array.dtype.kind in "iu" and array.ndim == 1:
                yield from self._ignored(name, len(array))

    def _explains(
        self, name: str, change: Callable[[np.ndarray], np.ndarray], *, fitted: bool = False
    ) -> bool:
        return self._agrees(
            lambda inputs: _with(
                inputs, lambda one, array: change(array) if one == name else array
            ),
            2 if fitted else 1,
        )

    def _agrees(self, change: Callable[[Inputs], Inputs], least: int = 1) -> bool:
        """Whether the reference, given changed inputs, gives all that the port gives.

        At least so many numbers must be others than without the change: what was fitted to one
        number explains no other.
        """
        if not self.enough:
            return False
        moved = 0
        for case in self.cases:
            try:
                outputs = self.reference.run(change(self.given[case]), "float64")
            except (ValueError, IndexError, TypeError):  # a change that these arrays have not
                return False
            if isinstance(outputs, Refusal):
                return False
            for key, by_case in self.pairs.items():
                if case not in by_case:
                    continue
                ours, theirs = by_case[case]
                if key not in outputs or not self.same(ours, outputs[key]):
                    return False
                moved += sum(
                    not self.same(*pair) for pair in zip(ours.ravel(), theirs.ravel(), strict=False)
                )
        return moved >= least

    def _ignored(self, name: str, count: int) -> Iterator[str]:
        """Examples of one class left out, of every input that has one entry for each."""
        labels = [dict(flatten(self.given[case], is_array)[1]).get(name) for case in self.cases]
        known = np.unique(np.concatenate([one for one in labels if one is not None]))
        for label in known[:MOST_CLASSES]:

            def without(inputs: Inputs, label: Any = label) -> Inputs:
                own = dict(flatten(inputs, is_array)[1])[name]
                kept = own != label
                return _with(
                    inputs, lambda one, array: array[kept] if len(array) == len(kept) else array
                )

            if self._agrees(without):
                yield f"it leaves out the examples of class {label} in input `{name}`"

    def related(self) -> Iterator[str]:
        """What the port's result is in terms of the reference's."""
        for key, by_case in self.pairs.items():
            for text in relations(list(by_case.values()), self.same):
                yield text if key == "result" else f"{key}: {text}"

    def entries(self) -> Iterator[str]:
        """One entry of a vector of the inputs that the port takes for another number."""
        for name, array in flatten(self.given[self.cases[0]], is_array)[1]:
            if array.dtype.kind != "f" or array.ndim != 1 or array.size > MOST_ENTRIES:
                continue
            if not all(
                ours.shape == theirs.shape
                for by in self.pairs.values()
                for ours, theirs in by.values()
            ):
                continue
            for index in range(array.size):
                value = self._fitted(name, index, float(array[index]))
                if value is not None:
                    yield (
                        f"it takes entry {index} of input `{name}` for {value:.10g} instead of "
                        f"{float(array[index]):.10g}"
                    )

    def _fitted(self, name: str, index: int, own: float) -> float | None:
        """The number that makes one result of the reference the port's, if it makes all so."""

        def changed(value: float) -> Callable[[np.ndarray], np.ndarray]:
            def change(array: np.ndarray) -> np.ndarray:
                array = array.astype(np.float64)
                array[index] = value
                return array

            return change

        key, by_case = next(iter(self.pairs.items()))
        case = max(by_case, key=lambda one: float(np.abs(np.subtract(*by_case[one])).sum()))
        ours = by_case[case][0]

        def missing(value: float) -> float:
            change = changed(value)
            inputs = _with(
                self.given[case], lambda one, array: change(array) if one == name else array
            )
            outputs = self.reference.run(inputs, "float64")
            if isinstance(outputs, Refusal) or outputs[key].shape != ours.shape:
                return np.nan
            return float(np.sum(outputs[key] - ours))

        before, value = own, own * 1.01 + 0.01
        gap_before, gap = missing(before), missing(value)
        for _ in range(STEPS):
            slope = (gap - gap_before) / (value - before) if value != before else 0.0
            if not np.isfinite(slope) or slope == 0.0:
                break
            before, gap_before, value = value, gap, value - gap / slope
            gap = missing(value)
        if not np.isfinite(value) or value == own:
            return None
        return value if self._explains(name, changed(value), fitted=True) else None


def _with(inputs: Inputs, change: Callable[[str, np.ndarray], np.ndarray]) -> Inputs:
    template, arrays = flatten(inputs, is_array)
    changed = {name: change(name, array) for name, array in arrays}
    return fill(template, lambda slot: changed[slot.name])


def _changes(array: np.ndarray) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Mistakes with one input, with what it is called in the text left open."""
    rank = array.ndim
    for axis in reversed(range(min(rank, 4))):
        for shift in SHIFTS:
            yield (
                f"it takes input `{{name}}` rolled by {shift} along axis {axis}",
                lambda one, a=axis, s=shift: np.roll(one, s, a),
            )
        yield (
            f"it takes input `{{name}}` reversed along axis {axis}",
            lambda one, a=axis: np.flip(one, a),
        )
    for axes in itertools.combinations(range(min(rank, 4)), 2):
        yield (
            f"it takes input `{{name}}` with axes {axes[0]} and {axes[1]} exchanged",
            lambda one, axes=axes: np.swapaxes(one, *axes),
        )
    if array.dtype.kind in "iu":
        for shift in (1, -1):
            yield (
                f"it takes input `{{name}}` plus {shift}",
                lambda one, s=shift: one + np.asarray(s, one.dtype) if s > 0 else one - 1,
            )
    if array.dtype.kind == "f":
        yield "it leaves input `{name}` out (zeros)", np.zeros_like
        yield "it leaves input `{name}` out (ones)", np.ones_like
