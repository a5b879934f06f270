"""Joints that follow from the kinds of two layers, told by what they call their tensors.

Layers of one kind call their tensors alike in each framework, and shapes say the rest. So what is
known here holds for PyTorch, Keras and Flax, whichever is the reference.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.weights.joints import Joint, alone

Names = Mapping[str, str]
"""Names of tensors within a module, to what they are called in the whole model."""


@dataclass(frozen=True)
class Sides:
    """What two layers that are paired have left to be paired.

    Args:
        reference, port: names within the layers, to keys and to paths.
        state: the reference's tensors by key.
        shapes: the port's by path, as PyTorch's layers hold them.
        modules: the port's layers by their path within.
    """

    reference: Names
    port: Names
    state: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    modules: Mapping[str, Any]


def between(
    variables: Mapping[str, Any],
    paths: Sequence[str],
    state: Mapping[str, np.ndarray],
    keys: Sequence[str],
    layers: tuple[str, str],
    modules: Mapping[str, Any],
) -> Sides:
    """What is left of one pair of layers.

    Args:
        variables: the port's by path, each with owner, name, layout and shape.
        paths, keys: the variables and the tensors of `state` that are left.
        layers: the path of the port's layer, and that of the reference's.
        modules: the port's layers by path.
    """
    named = {
        f"{one.owner}.{one.name}" if one.owner else one.name: path
        for path in paths
        if (one := variables[path]).owner is not None
    }
    ours = _within(named, layers[0])
    shapes = {}
    for path in ours.values():
        one = variables[path]
        shapes[path] = one.layout.to_reference(np.broadcast_to(0.0, one.shape)).shape
    theirs = _within(dict(zip(keys, keys, strict=True)), layers[1])
    return Sides(theirs, ours, state, shapes, _within(modules, layers[0]))


def _within(names: Mapping[str, Any], path: str) -> dict[str, Any]:
    """What is below a path, by the names within."""
    start = f"{path}." if path else ""
    return {name[len(start) :]: one for name, one in names.items() if name.startswith(start)}


@dataclass(frozen=True)
class Unlike:
    """Why tensors of two layers cannot be moved, and which these are."""

    text: str
    keys: tuple[str, ...]
    paths: tuple[str, ...]


def joints_of(sides: Sides) -> tuple[list[Joint], list[Unlike]]:
    """The joints of two layers, and what of them cannot be moved."""
    problems: list[Unlike] = []
    found: list[Joint] = []
    for rule in (_recurrent, _attention, _reparametrised, _separable):
        found += rule(sides, problems)
    return found, problems


GATED = re.compile(r"(weight|bias)_(ih|hh)(?:_l(\d+)(_reverse)?)?")
CELL = re.compile(
    r"(?:(forward|backward)_layer\.)?(?:cell\.(?:cells\.(\d+)\.)?)?(weight|recurrent_kernel|bias)"
)
NEW_AFTER = (
    "{path} multiplies by the reset gate before its product (reset_after=False), the reference "
    "after it: they are two functions, build it with reset_after=True"
)


def _recurrent(sides: Sides, problems: list[Unlike]) -> Iterator[Joint]:
    theirs, ours = _cells(sides.reference), _cells(sides.port)
    for place, cell in theirs.items():
        held = ours.get(place)
        if held is None or not {"ih", "hh"} <= cell.keys() & held.keys():
            continue
        gates = sides.state[cell["hh"]].shape[0] / sides.state[cell["hh"]].shape[-1]
        before = [
            path
            for path, module in sides.modules.items()
            if gates == 3 and getattr(module, "reset_after", True) is False
        ]
        if before:
            text = NEW_AFTER.format(path=held["hh"].rpartition(".")[0])
            problems.append(Unlike(text, tuple(cell.values()), tuple(held.values())))
            continue
        yield alone(cell["ih"], held["ih"])
        yield alone(cell["hh"], held["hh"])
        yield from _biases(cell, held, gates == 3)


def _cells(names: Names) -> dict[tuple[int, bool], dict[str, str]]:
    """By layer and whether it runs backwards: what PyTorch calls each part, to its name."""
    found: dict[tuple[int, bool], dict[str, str]] = {}
    for name, whole in names.items():
        if gated := GATED.fullmatch(name):
            kind, side, layer, reverse = gated.groups()
            part = side if kind == "weight" else f"bias_{side}"
        elif cell := CELL.fullmatch(name):
            reverse, layer, kind = cell[1] == "backward", cell[2], cell[3]
            part = {"weight": "ih", "recurrent_kernel": "hh"}.get(kind, "bias")
        else:
            continue
        found.setdefault((int(layer or 0), bool(reverse)), {})[part] = whole
    return found


def _biases(cell: Names, held: Names, gru: bool) -> Iterator[Joint]:
    """PyTorch has two biases; a Keras GRU has both in one variable, other layers their sum."""
    pairs = [
        [side[name] for name in ("bias_ih", "bias_hh") if name in side] for side in (cell, held)
    ]
    theirs, ours = pairs
    if len(theirs) == len(ours) == 2:
        yield from map(alone, theirs, ours)
    elif len(theirs) == 2 and "bias" in held:
        make = Joint.stacked if gru else Joint.summed
        yield make(theirs, held["bias"])
    elif len(ours) == 2 and "bias" in cell:
        if gru:
            yield Joint([cell["bias"]], ours, list, lambda *arrays: [np.stack(arrays)])
        else:
            yield Joint(
                [cell["bias"]],
                ours,
                lambda array: [array, np.zeros_like(array)],
                lambda first, second: [first + second],
            )
    elif "bias" in cell and "bias" in held:
        yield alone(cell["bias"], held["bias"])


ROLE = r"_?(?:to_|w_?)?(query|key|value|q|k|v)(?:_?(?:dense|proj|projection|lin|linear|layer))?"
OUT = r"_?(?:to_)?(?:out|output|o|proj|c_proj|attention_output)(?:_?(?:dense|proj|lin|layer))?"
WHOLE = r"_?(?:to_)?(?:in_proj|qkv|c_attn|wqkv|query_key_value)(?:_?(?:dense|proj|lin|layer))?"
ATTENDING = re.compile(
    rf"(?:{ROLE}|(?P<out>{OUT})|(?P<whole>{WHOLE}))(?:\.0)?[._](?P<tensor>weight|bias)", re.I
)


def _attention(sides: Sides, problems: list[Unlike]) -> Iterator[Joint]:
    theirs, ours = _projections(sides.reference), _projections(sides.port)
    for tensor in ("weight", "bias"):
        a, b = theirs.get(tensor, {}), ours.get(tensor, {})
        if not ({"whole", "q"} & a.keys() and {"whole", "q"} & b.keys()):
            continue
        three = [[side[role] for role in "qkv" if role in side] for side in (a, b)]
        if "whole" in a and len(three[1]) == 3:
            sizes = [sides.shapes[path][0] for path in three[1]]
            yield Joint.packed([a["whole"]], three[1], sizes=sizes)
        elif "whole" in b and len(three[0]) == 3:
            sizes = [sides.state[key].shape[0] for key in three[0]]
            yield Joint.packed(three[0], [b["whole"]], sizes=sizes)
        else:
            yield from (
                alone(a[role], b[role]) for role in ("whole", *"qkv") if role in a and role in b
            )
        if "out" in a and "out" in b:
            yield alone(a["out"], b["out"])


def _projections(names: Names) -> dict[str, dict[str, str]]:
    """By tensor and role (q, k, v, whole, out): the names of the projections of attention."""
    found: dict[str, dict[str, str]] = {}
    for name, path in names.items():
        if one := ATTENDING.fullmatch(name):
            role = "out" if one["out"] else "whole" if one["whole"] else one[1][0].lower()
            found.setdefault(one["tensor"].lower(), {})[role] = path
    return found


PARTS = (  # what PyTorch calls the parts of a weight that it computes, and what joins them
    (("parametrizations.{0}.original0", "parametrizations.{0}.original1"), Joint.normalised),
    (
        ("parametrizations.{0}.original", "parametrizations.{0}.0._u", "parametrizations.{0}.0._v"),
        Joint.spectral,
    ),
    (("{0}_orig", "{0}_u", "{0}_v"), Joint.spectral),
    (("{0}_g", "{0}_v"), Joint.normalised),
)


def _reparametrised(sides: Sides, problems: list[Unlike]) -> Iterator[Joint]:
    """A weight that the reference computes from others."""
    for name, path in sides.port.items():
        start, dot, last = name.rpartition(".")
        for parts, make in PARTS:
            keys = [f"{start}{dot}{part.format(last)}" for part in parts]
            if all(key in sides.reference for key in keys):
                yield _made(make, [sides.reference[key] for key in keys], path, sides)
                break


def _made(make: Callable[..., Joint], keys: list[str], path: str, sides: Sides) -> Joint:
    if make != Joint.spectral:
        return make(keys, path)
    weight, u = (sides.state[key] for key in keys[:2])
    return Joint.spectral(keys, path, axis=0 if len(u) == weight.shape[0] else 1)


def _separable(sides: Sides, problems: list[Unlike]) -> Iterator[Joint]:
    """Two convolutions of the reference, one of each channel alone and one of each pixel alone."""
    held = {name.rpartition(".")[2]: path for name, path in sides.port.items()}
    if not {"pointwise_kernel"} <= held.keys():
        return
    weights = [
        (name.removesuffix("weight"), key)
        for name, key in sides.reference.items()
        if name.endswith("weight") and sides.state[key].ndim >= 3
    ]
    if len(weights) != 2:
        return
    (first, deep), (second, point) = sorted(weights, key=lambda one: sides.state[one[1]].shape[1])
    yield alone(deep, held["weight"])
    yield alone(point, held["pointwise_kernel"])
    biases = [sides.reference.get(f"{start}bias") for start in (first, second)]
    if "bias" not in held or biases == [None, None]:
        return
    if biases[0] is None:
        yield alone(biases[1], held["bias"])
        return
    keys = [one for one in (point, *biases) if one]
    yield _through(keys[1:], held["bias"], sides.state[point])


def _through(keys: list[str], path: str, point: np.ndarray) -> Joint:
    """The bias of the first convolution, which goes through the second, and that of the second."""
    matrix = point.reshape(point.shape[:2]).astype(np.float64)
    return Joint(
        keys,
        [path],
        lambda first, *second: [sum(second, start=matrix @ first)],
        lambda held, first, *second: [first, *(held - matrix @ first for _ in second)],
        "a sum does not say what was added",
    )
