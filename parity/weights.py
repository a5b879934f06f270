"""Which variable of a port holds which tensor of the reference, and in which layout."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.errors import InputError
from parity.names import Declared, filled, matched, reasons

State = Mapping[str, np.ndarray]
SHOWN = 6  # names listed in a message


@dataclass(frozen=True)
class Layout:
    """How the port holds an array of the reference, and the way back; neither changes a value.

    Args:
        to_port: the reference's array as the port holds it.
        to_reference: the inverse.

    Example:
        >>> import numpy
        >>> heads_last = parity.Layout(lambda array: array.T, lambda array: array.T)
        >>> heads_last.to_port(numpy.zeros((8, 3))).shape
        (3, 8)
    """

    to_port: Callable[[np.ndarray], np.ndarray]
    to_reference: Callable[[np.ndarray], np.ndarray]


def turned(*axes: int) -> Layout:
    """The reference's axes in another order: the port's axis i is the reference's axes[i]."""
    return Layout(
        lambda array: array.transpose(axes), lambda array: array.transpose(np.argsort(axes))
    )


SAME = Layout(lambda array: array, lambda array: array)
LINEAR = turned(1, 0)  # [out, in] to [in, out]
CONVOLUTIONS = {  # by the number of axes: OI... to ...IO
    3: turned(2, 1, 0),
    4: turned(2, 3, 1, 0),
    5: turned(2, 3, 4, 1, 0),
}


def depthwise(multiplier: int) -> Layout:
    """The kernel [channels * multiplier, 1, height, width] of a convolution of each channel alone;
    the port holds [height, width, channels, multiplier]."""
    return Layout(
        lambda array: array.reshape(-1, multiplier, *array.shape[2:]).transpose(2, 3, 0, 1),
        lambda array: array.transpose(2, 3, 0, 1).reshape(-1, 1, *array.shape[:2]),
    )


def split_heads(heads: int) -> Layout:
    """The weight [heads * size, in] or bias [heads * size] of a query, key or value projection.

    The port holds [in, heads, size] and [heads, size], as Keras' MultiHeadAttention does.
    """

    def to_port(array: np.ndarray) -> np.ndarray:
        return array.T.reshape(*array.shape[1:], heads, -1)

    def to_reference(array: np.ndarray) -> np.ndarray:
        return array.reshape(*array.shape[:-2], -1).T

    return Layout(to_port, to_reference)


def merged_heads(heads: int) -> Layout:
    """The weight [out, heads * size] of the projection after attention; the port holds
    [heads, size, out]."""
    return Layout(
        lambda array: array.T.reshape(heads, -1, array.shape[0]),
        lambda array: array.reshape(-1, array.shape[-1]).T,
    )


@dataclass(frozen=True)
class Weights:
    """What of a port's variables does not follow from the kind and the place of its layers.

    By itself a variable of a layer of Keras belongs to the tensor of the module with which the
    layer is paired: `kernel`, `depthwise_kernel`, `gamma` and `embeddings` to `weight`, `beta` to
    `bias`, `moving_mean` to `running_mean`, `moving_variance` to `running_var`, others to their own
    name; and kernels of `Dense` and convolutions have the layout of their kind. In paths a `*`
    stands for one part, the same on both sides.

    Args:
        variables: the port's path, such as `encoder.layers.*.scale`, to the reference's key.
        layouts: the reference's key to its `Layout` in the port.
        reference_only: the reference's key that no variable holds, to the reason.
        port_only: path of a variable that no tensor fits, to the reason; it keeps its value.

    Example:
        >>> weights = parity.Weights(
        ...     variables={"blocks.*.scale": "layers.*.gamma"},
        ...     reference_only={"tokens.cached": "computed anew by the port"},
        ... )
        >>> weights.reasons
        ['tokens.cached, weight of the reference only: computed anew by the port']
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    reference_only: Mapping[str, str] = field(default_factory=dict)
    port_only: Mapping[str, str] = field(default_factory=dict)

    @property
    def reasons(self) -> list[str]:
        """What is declared to be on one side only, and why, for people."""
        return reasons("weight of", self.reference_only, self.port_only)


@dataclass(frozen=True)
class Loaded:
    """The weights of a pair whose port is built with them, instead of being given them here.

    Args:
        state: the reference's tensors by key.
        read: the port's tensors under the same keys and in the same layout.
        source: where the port's come from, where that is not the reference's checkpoint.
    """

    state: State
    read: Callable[[Any], State]
    source: str = ""

    @property
    def reasons(self) -> list[str]:
        """Nothing is declared to be on one side only."""
        return []


@dataclass(frozen=True)
class Variable:
    """One float tensor of a model, as its framework holds it.

    Args:
        owner: path of the module that it belongs to; None where none is known.
        name: what PyTorch calls such a tensor of such a module.
        layout: how it is held, by the kind of its owner.
        shape: as it is held.
        read, assign: its array as it is held; `assign` casts to its own dtype.
        tensor: what its framework knows it by.
    """

    owner: str | None
    name: str
    layout: Layout
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    assign: Callable[[np.ndarray], None]
    tensor: Any = None


@dataclass(frozen=True)
class Held:
    """One tensor of the reference, the variable of the port that holds it, and how."""

    key: str
    path: str
    variable: Variable
    layout: Layout

    def returned(self) -> np.ndarray:
        """The variable's value as the reference has it."""
        return self.layout.to_reference(self.variable.read())


@dataclass(frozen=True)
class Returned:
    """What came back from the port's variables, beside what the reference has.

    Args:
        count: how many tensors the port was given, None where it came with its own.
        changed: keys of those that the reference does not have so, bit for bit.
        sha256: `state_digest` of all.
    """

    count: int | None = None
    changed: tuple[str, ...] = ()
    sha256: str = ""


def returned(state: State, found: State) -> Returned:
    """Compares what was `found` of all of `state` bit for bit, in its dtypes and its order.

    From float64, which holds every float32 number, the way back is exact.
    """
    back = {
        key: np.ascontiguousarray(found[key].astype(array.dtype)) for key, array in state.items()
    }
    changed = tuple(
        key
        for key, array in back.items()
        if array.shape != state[key].shape or array.tobytes() != state[key].tobytes()
    )
    return Returned(len(back), changed, state_digest(back))


def state_digest(state: State) -> str:
    """sha256 over names, dtypes, shapes and bytes of a state dict, in its order."""
    digest = hashlib.sha256()
    for key, array in state.items():
        digest.update(f"{key} {array.dtype.name} {list(array.shape)}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def state_of(variables: Mapping[str, Variable]) -> dict[str, np.ndarray]:
    """The tensors of a reference by key: the path of the owner and the tensor's name."""
    return {
        key_of(one.owner, one.name): one.layout.to_reference(one.read())
        for one in variables.values()
        if one.owner is not None
    }


def load(framework: Any, model: Any, state: State, names: Declared, weights: Weights) -> list[Held]:
    """Give the port, which must be built, all of `state`; nothing is assigned unless all fits.

    Args:
        framework: the port's; see `parity.frameworks.framework`.
        model: the port; its layers are paired with the reference's modules by `names`.
        state: the reference's tensors by key.
        names: the declared map of modules.
        weights: what does not follow from the pairs of layers.
    Returns: what was assigned, in the order of `state`.
    Raises: InputError that lists every tensor without a variable, every variable without a tensor,
        and those that do not fit.
    """
    variables = framework.variables(model)
    declared = _declared(variables, framework.modules(model), names, weights)
    held, problems = _paired(variables, state, declared, weights)
    for one in held:
        wanted, given = one.variable.shape, one.layout.to_port(state[one.key]).shape
        if wanted != given:
            problems.append(
                f"{one.key} {list(state[one.key].shape)} would be {list(given)} in the port, but "
                f"{one.path} is {list(wanted)}"
            )
    if problems:
        shown = problems[:SHOWN]
        if len(problems) > SHOWN:
            shown.append(f"and {len(problems) - SHOWN} more")
        raise InputError(
            f"the weights of the two models do not match: {len(problems)} places",
            *shown,
            "declare them in `Weights`: variables, layouts, reference_only or port_only",
        )
    for one in held:
        one.variable.assign(one.layout.to_port(state[one.key]))
    return held


def key_of(owner: str, name: str) -> str:
    """The key of a tensor of the module at `owner`."""
    return f"{owner}.{name}" if owner else name


def _declared(
    variables: Mapping[str, Variable],
    modules: Collection[str],
    names: Declared,
    weights: Weights,
) -> dict[str, str]:
    """The reference's key of each variable, by path: as declared, else by its layer."""
    naming = names.port_side({})
    own = {path: path for path in modules}
    theirs = {path: name for name, path in (own if naming is None else naming.modules(own)).items()}
    found = {
        path: key_of(theirs[one.owner], one.name)
        for path, one in variables.items()
        if one.owner in theirs
    }
    for pattern, key in weights.variables.items():
        for path, parts in matched([pattern], variables, "port", "variable", "variables").items():
            found[path] = filled(key, parts)
    return found


def _paired(
    variables: Mapping[str, Variable],
    state: State,
    declared: Mapping[str, str],
    weights: Weights,
) -> tuple[list[Held], list[str]]:
    """Each tensor with its variable, and what stays without a counterpart."""
    alone = matched(weights.port_only, variables, "port", "variable", "port_only")
    unused = matched(weights.reference_only, state, "reference", "tensor", "reference_only")
    chosen = {
        key: layout
        for pattern, layout in weights.layouts.items()
        for key in matched([pattern], state, "reference", "tensor", "layouts")
    }
    by_key: dict[str, list[str]] = {}
    problems = []
    for path in variables:
        key = declared.get(path)
        if path in alone:
            continue
        if key is None or key not in state or key in unused:
            meant = f" ({key})" if key else ""
            problems.append(f"{path} of the port has no tensor of the reference{meant}")
        else:
            by_key.setdefault(key, []).append(path)
    held = []
    for key in state:
        paths = by_key.get(key, [])
        if not paths and key not in unused:
            problems.append(f"{key} of the reference has no variable of the port")
        elif len(paths) > 1:
            problems.append(f"{key} of the reference has {len(paths)}: {', '.join(paths)}")
        elif paths:
            variable = variables[paths[0]]
            held.append(Held(key, paths[0], variable, chosen.get(key) or variable.layout))
    return held, problems
