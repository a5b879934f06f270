"""Two descriptions of one random model, in the names, layouts and nesting of two frameworks."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.matching.seen import Called, Side, Weight
from parity.trace import Tap, tap_key
from parity.weights import LINEAR, SAME

WORDS = ("alpha", "dense", "fc", "mix", "norm", "proj", "stem", "unit")
SHAPES = ("linear", "norm", "branches")


@dataclass(frozen=True)
class Spec:
    """One layer: of which kind, how wide, and what is special about it.

    Args:
        again: it has the weights of the last layer of its kind, shape and packing.
        plain: its weights are all ones, as if never trained.
        packed: of branches, the side that holds them in one array: 1 the reference, 2 the port.
        swapped: of branches, the port calls them in another order.
        fused: the port's layer has the activation inside.
        known: the port's framework knows the kind of layer, and so its layout.
    """

    kind: str
    width: int
    again: bool
    plain: bool
    packed: int
    swapped: bool
    fused: bool
    known: bool


@dataclass
class _Written:
    """A side that is being written down."""

    weights: dict[str, Weight] = field(default_factory=dict)
    modules: list[str] = field(default_factory=lambda: [""])
    calls: list[Called] = field(default_factory=lambda: [Called("", 0, None)])
    taps: dict[str, Tap] = field(default_factory=dict)

    def call(self, path: str, parent: str, given: np.ndarray, made: np.ndarray) -> None:
        self.modules.append(path)
        self.calls.append(Called(path, 0, parent))
        self.tap(path, "input", given)
        self.tap(path, "output", made)

    def tap(self, path: str, kind: str, array: np.ndarray) -> None:
        self.taps[tap_key(path, kind)] = Tap(path, kind, "", 0, "NX", array)

    def side(self) -> Side:
        return Side(self.weights, self.modules, self.calls, self.taps)


@dataclass(frozen=True)
class Models:
    """Both sides, and the truth: the reference's keys of each of the port's variables."""

    theirs: Side
    ours: Side
    truth: dict[str, set[str]]

    def alike(self, key: str, other: str) -> bool:
        """Whether two weights of the reference are interchangeable: equal, in layers that do the
        same to the same."""
        a, b = self.theirs.weights[key], self.theirs.weights[other]
        return np.array_equal(a.held, b.held) and all(
            np.array_equal(
                self.theirs.taps[f"{a.owner}:{kind}"].array,
                self.theirs.taps[f"{b.owner}:{kind}"].array,
            )
            for kind in ("input", "output")
        )


def models(specs: Sequence[Spec], shared: bool, seed: int) -> Models:
    """The model of `specs` twice; the port has the reference's weights where `shared`."""
    rng = np.random.default_rng(seed)
    theirs, ours, truth = _Written(), _Written(), {}
    x = rng.normal(size=(3, specs[0].width))
    for side in (theirs, ours):
        side.tap("", "input", x)
    last: dict[tuple, list[np.ndarray]] = {}
    for index, spec in enumerate(specs):
        block, group = f"blocks.{index // 2}", f"stack_{index % 3}_{rng.choice(WORDS)}_{index}"
        names = f"{block}.{rng.choice(WORDS)}{index}", f"{group}.{rng.choice(WORDS)}"
        count = 3 if spec.kind == "branches" else 1
        shape = (x.shape[1],) if spec.kind == "norm" else (spec.width, x.shape[1])
        drawn = []
        for _ in range(count):
            array = rng.normal(size=shape).astype(np.float32)
            bias = rng.normal(size=shape[:1]).astype(np.float32)
            drawn += [np.ones_like(array), np.zeros_like(bias)] if spec.plain else [array, bias]
        key = spec.kind, shape, spec.packed
        if spec.again and key in last:
            drawn = last[key]
        last[key] = drawn
        held = drawn if shared else [rng.normal(size=a.shape).astype(np.float32) for a in drawn]
        results = [
            _applied(spec.kind, x, *drawn[2 * branch : 2 * branch + 2]) for branch in range(count)
        ]
        made = np.tanh(sum((n + 1) * one for n, one in enumerate(results)))
        _reference(theirs, spec, names[0], drawn, (x, results, made))
        order = [2, 0, 1][:count] if spec.swapped and shared and count > 1 else range(count)
        found = _port(ours, spec, names[1], held, (x, results, made), list(order))
        for path, branches in found.items():
            suffix = path.rpartition(".")[2]
            name = "weight" if suffix in ("kernel", "w") else "bias"
            truth[path] = {
                f"{names[0]}.{name}" if spec.packed == 1 or count == 1 else f"{names[0]}.{b}.{name}"
                for b in branches
            }
        x = made
    for side in (theirs, ours):
        side.tap("", "output", x)
    return Models(theirs.side(), ours.side(), truth)


def _applied(kind: str, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return x * weight + bias if kind == "norm" else x @ weight.T + bias


def _reference(side: _Written, spec: Spec, path: str, drawn: list[np.ndarray], run: tuple) -> None:
    x, results, made = run
    if len(results) == 1 or spec.packed == 1:
        side.call(path, "", x, np.concatenate(results, 1))
        side.weights[f"{path}.weight"] = Weight(path, "weight", np.concatenate(drawn[::2]))
        side.weights[f"{path}.bias"] = Weight(path, "bias", np.concatenate(drawn[1::2]))
    else:
        side.call(path, "", x, made)
        for branch, result in enumerate(results):
            inner = f"{path}.{branch}"
            side.call(inner, path, x, result)
            side.weights[f"{inner}.weight"] = Weight(inner, "weight", drawn[2 * branch])
            side.weights[f"{inner}.bias"] = Weight(inner, "bias", drawn[2 * branch + 1])
    side.call(f"{path}_act", "", results[0], made)


def _port(
    side: _Written,
    spec: Spec,
    path: str,
    held: list[np.ndarray],
    run: tuple,
    order: list[int],
) -> dict[str, list[int]]:
    """Writes the port; returns which branches each of its variables holds."""
    x, results, made = run
    kernel, bias = ("kernel", "bias") if spec.known else ("w", "c")
    names = ("weight", "bias") if spec.known else ("w", "c")

    def keep(owner: str, weight: np.ndarray, other: np.ndarray) -> None:
        turned = weight.ndim > 1
        layout = LINEAR if spec.known and turned else SAME
        side.weights[f"{owner}.{kernel}"] = Weight(owner, names[0], weight.T, layout)
        side.weights[f"{owner}.{bias}"] = Weight(owner, names[1], other)

    outer = path.partition(".")[0]
    side.call(outer, "", x, made)
    if len(results) == 1 or spec.packed == 2:
        fused = spec.fused and len(results) == 1
        side.call(path, outer, x, made if fused else np.concatenate(results, 1))
        keep(path, np.concatenate(held[::2]), np.concatenate(held[1::2]))
        branches = list(range(len(results)))
        return {f"{path}.{kernel}": branches, f"{path}.{bias}": branches}
    found = {}
    for branch in order:
        inner = f"{path}_{'abc'[branch]}"
        side.call(inner, outer, x, results[branch])
        keep(inner, held[2 * branch], held[2 * branch + 1])
        found |= {f"{inner}.{kernel}": [branch], f"{inner}.{bias}": [branch]}
    return found
