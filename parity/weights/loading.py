"""Which variable of a port holds which tensor of the reference, and in which layout."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from parity.errors import InputError
from parity.names import Declared, filled, matched, reasons
from parity.weights.by_layer import between, joints_of
from parity.weights.joints import Joint, alone
from parity.weights.layouts import Layout
from parity.weights.standing import condensed, kinds_of

State = Mapping[str, np.ndarray]
UNDECLARED = "declare them in `Weights`: variables, layouts, joints, reference_only or port_only"


@dataclass(frozen=True)
class Weights:
    """What of a port's variables does not follow from the kind and the place of its layers.

    By itself a variable of a layer of Keras belongs to the tensor of the module with which the
    layer is paired: `kernel`, `depthwise_kernel`, `gamma` and `embeddings` to `weight`, `beta` to
    `bias`, `moving_mean` to `running_mean`, `moving_variance` to `running_var`, others to their own
    name; and kernels of `Dense` and convolutions have the layout of their kind. Layers of one kind
    whose tensors are not one to one are known as well: attention with query, key and value in one
    matrix or in three, LSTM and GRU with one bias or two, separable convolutions, weight and
    spectral normalisation, and a tensor that the reference has under several names. In paths a `*`
    stands for one part, the same on both sides.

    Args:
        variables: the port's path, such as `encoder.layers.*.scale`, to the reference's key.
        layouts: the reference's key to its `Layout` in the port.
        reference_only: the reference's key that no variable holds, to the reason.
        port_only: path of a variable that no tensor fits, to the reason; it keeps its value.
        joints: what else is not one to one, such as a norm that is folded into a kernel.

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
    joints: Sequence[Joint] = ()

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
        lacking: further tensors that have no counterpart: of the reference by key, of the port by
            path, to the kind (`parity.weights.standing`).
    """

    state: State
    read: Callable[[Any], State]
    source: str = ""
    lacking: Mapping[str, str] = field(default_factory=dict)

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
    """Tensors of the reference, the variables of the port that hold them, and how.

    `joint` has their full names, `layouts` are those of the variables, in its order.
    """

    joint: Joint
    variables: tuple[Variable, ...]
    layouts: tuple[Layout, ...]

    @property
    def keys(self) -> Sequence[str]:
        """Those of the reference's tensors."""
        return self.joint.reference

    @property
    def alone(self) -> bool:
        """Whether it is one tensor and one variable, which differ in nothing but the layout."""
        return len(self.keys) == len(self.variables) == 1 and not self.joint.reason

    @property
    def reasons(self) -> list[str]:
        """Why the reference's tensors cannot be read back, for people; none where they can."""
        if not self.joint.reason:
            return []
        held, keys = " and ".join(self.joint.port), " and ".join(self.keys)
        return [f"{keys}, read back from {held} in one way only: {self.joint.reason}"]

    def given(self, state: State) -> list[np.ndarray]:
        """The variables' arrays as the reference's tensors give them."""
        made = self.joint.to_port(*self._of(state))
        return [one.to_port(array) for one, array in zip(self.layouts, made, strict=True)]

    def returned(self, state: State) -> dict[str, np.ndarray]:
        """The variables' values as the reference has them, by key.

        Without an inverse, those of the reference where the variables have what these give.
        """
        read = [one.read() for one in self.variables]
        back = [one.to_reference(array) for one, array in zip(self.layouts, read, strict=True)]
        if not self.joint.reason:
            return dict(zip(self.keys, self.joint.to_reference(*back), strict=True))
        wanted = self.given(state)
        if all(map(np.array_equal, read, map(np.ndarray.astype, wanted, (a.dtype for a in read)))):
            return {key: state[key] for key in self.keys}
        if self.joint.to_reference is None:
            return {key: np.full_like(state[key], np.nan) for key in self.keys}
        return dict(zip(self.keys, self.joint.to_reference(*back, *self._of(state)), strict=True))

    def _of(self, state: State) -> list[np.ndarray]:
        arrays = [state[key] for key in self.keys]
        return [one.astype(np.float64) for one in arrays] if self.joint.reason else arrays


@dataclass(frozen=True)
class Returned:
    """What came back from the port's variables, beside what the reference has.

    Args:
        count: how many tensors the port was given, None where it came with its own.
        changed: keys of those that the reference does not have so, bit for bit, each with its kind
            (`parity.weights.standing`).
        sha256: `state_digest` of all.
    """

    count: int | None = None
    changed: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""


def returned(state: State, found: State) -> Returned:
    """Compares what was `found` of all of `state` bit for bit, in its dtypes and its order.

    From float64, which holds every float32 number, the way back is exact.
    """
    back = {
        key: np.ascontiguousarray(found[key].astype(array.dtype)) for key, array in state.items()
    }
    return Returned(len(back), kinds_of(state, back), state_digest(back))


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


def load(
    framework: Any,
    model: Any,
    state: State,
    names: Declared,
    weights: Weights,
    *,
    undeclared: bool = False,
) -> tuple[list[Held], dict[str, str]]:
    """Give the port, which must be built, all of `state`; nothing is assigned unless all fits.

    Args:
        framework: the port's; see `parity.frameworks.framework`.
        model: the port; its layers are paired with the reference's modules by `names`.
        state: the reference's tensors by key.
        names: the declared map of modules.
        weights: what does not follow from the pairs of layers.
        undeclared: whether what has no counterpart, or does not fit, may stay as it is.
    Returns: what was assigned, in the order of `state`; and why what stayed did, by its name.
    Raises: InputError that lists, grouped by pattern, every tensor without a variable, every
        variable without a tensor, and those that do not fit; unless that is `undeclared`.
    """
    sides = _Loading(framework.variables(model), framework.modules(model), state, weights)
    sides.pair(names)
    misfits = [(one, _misfit(one, state)) for one in sides.held]
    problems = sides.left() | {one.keys[0]: text for one, text in misfits if text}
    if problems and not undeclared:
        raise InputError(
            f"the weights of the two models do not match: {len(problems)} places",
            *condensed(problems.values()),
            UNDECLARED,
        )
    held = [one for one, text in misfits if not text]
    for one in held:
        for variable, array in zip(one.variables, one.given(state), strict=True):
            variable.assign(array)
    order = {key: index for index, key in enumerate(state)}
    return sorted(held, key=lambda one: order[one.keys[0]]), problems


def key_of(owner: str, name: str) -> str:
    """The key of a tensor of the module at `owner`."""
    return f"{owner}.{name}" if owner else name


def _misfit(one: Held, state: State) -> str:
    """Why the reference's tensors cannot be held so, in words; empty where they can."""
    keys, sizes = " and ".join(one.keys), [list(state[key].shape) for key in one.keys]
    theirs = " and ".join(map(str, sizes))
    try:
        made = one.given(state)
    except InputError as error:
        return "; ".join(error.args)
    except (ValueError, IndexError, TypeError) as error:
        return f"{keys} {theirs} cannot be held by {' and '.join(one.joint.port)}: {error}"
    for path, variable, array in zip(one.joint.port, one.variables, made, strict=True):
        if variable.shape != array.shape:
            return (
                f"{keys} {theirs} would be {list(array.shape)} in the port, but {path} is "
                f"{list(variable.shape)}"
            )
    return ""


class _Loading:
    """Finds the variables of the port for the tensors of the reference, each once.

    `held` is what was found; `left` says what was not.
    """

    def __init__(
        self,
        variables: Mapping[str, Variable],
        modules: Mapping[str, Any],
        state: State,
        weights: Weights,
    ) -> None:
        self.variables, self.modules, self.state, self.weights = variables, modules, state, weights
        alone_here = matched(weights.port_only, variables, "port", "variable", "port_only")
        unused = matched(weights.reference_only, state, "reference", "tensor", "reference_only")
        self.layouts = {
            key: layout
            for pattern, layout in weights.layouts.items()
            for key in matched([pattern], state, "reference", "tensor", "layouts")
        }
        self.held: list[Held] = []
        self.unused = set(unused)
        self.paths = [path for path in variables if path not in alone_here]
        self.keys = [key for key in state if key not in unused]
        self.declared: dict[str, str] = {}
        self.problems: dict[str, str] = {}

    def pair(self, names: Declared) -> None:
        """Pairs what is declared, what has one counterpart by its layer, and what is joint."""
        for joint in self.weights.joints:
            self._take(list(self._expanded(joint)))
        layers = _layers(self.modules, names)
        self.declared = self._by_name(layers)
        by_key: dict[str, list[str]] = {}
        for path in self.paths:
            key = self.declared.get(path)
            if key in self.keys:
                by_key.setdefault(key, []).append(path)
        for key, paths in by_key.items():
            if len(paths) > 1:
                listed = ", ".join(paths)
                self.problems[key] = f"{key} of the reference has {len(paths)}: {listed}"
                self._free([key], paths)
        self._take([alone(key, paths[0]) for key, paths in by_key.items() if len(paths) == 1])
        for path, theirs in layers.items():
            joints, problems = joints_of(
                between(
                    self.variables, self.paths, self.state, self.keys, (path, theirs), self.modules
                )
            )
            for one in problems:
                self.problems[one.keys[0]] = one.text
                self._free(one.keys, one.paths)
            self._take(joints)
        self._take_tied()

    def left(self) -> dict[str, str]:
        """What has no counterpart, in words, by its name."""
        found = dict(self.problems)
        for path in self.paths:
            key = self.declared.get(path)
            meant = f" ({key})" if key else ""
            found[path] = f"{path} of the port has no tensor of the reference{meant}"
        for key in self.keys:
            found[key] = f"{key} of the reference has no variable of the port"
        return found

    def _take(self, joints: Sequence[Joint]) -> None:
        for joint in joints:
            variables = tuple(self.variables[path] for path in joint.port)
            chosen = self.layouts.get(joint.reference[0]) if len(joint.reference) == 1 else None
            layouts = tuple(chosen or one.layout for one in variables)
            self.held.append(Held(joint, variables, layouts))
            self._free(joint.reference, joint.port)

    def _free(self, keys: Sequence[str], paths: Sequence[str]) -> None:
        self.keys = [key for key in self.keys if key not in keys]
        self.paths = [path for path in self.paths if path not in paths]

    def _expanded(self, joint: Joint) -> Iterator[Joint]:
        """A declared joint once for each that its stars stand for."""
        found = matched([joint.port[0]], self.variables, "port", "variable", "joints")
        for parts in found.values():
            keys = [filled(key, parts) for key in joint.reference]
            paths = [filled(path, parts) for path in joint.port]
            matched(keys, self.state, "reference", "tensor", "joints")
            matched(paths, self.variables, "port", "variable", "joints")
            yield replace(joint, reference=keys, port=paths)

    def _by_name(self, layers: Mapping[str, str]) -> dict[str, str]:
        """The reference's key of each variable, by path: as declared, else by its layer."""
        found = {
            path: key_of(layers[one.owner], one.name)
            for path, one in self.variables.items()
            if one.owner in layers
        }
        for pattern, key in self.weights.variables.items():
            fitting = matched([pattern], self.variables, "port", "variable", "variables")
            found |= {path: filled(key, parts) for path, parts in fitting.items()}
        return found

    def _take_tied(self) -> None:
        """Names of tensors that are held already under another one, in the same memory."""
        for index, one in enumerate(self.held):
            if len(one.keys) > 1 or not self.keys:
                continue
            own = _memory(self.state[one.keys[0]])
            tied = [key for key in self.keys if _memory(self.state[key]) == own]
            if tied:
                joint = Joint.tied([*one.keys, *tied], one.joint.port[0])
                self.held[index] = replace(one, joint=joint)
                self._free(tied, ())


def _layers(modules: Mapping[str, Any], names: Declared) -> dict[str, str]:
    """The reference's path of each module of the port, by the port's."""
    naming = names.port_side({})
    own = {path: path for path in modules}
    return {path: name for name, path in (own if naming is None else naming.modules(own)).items()}


def _memory(array: np.ndarray) -> tuple:
    """Where an array's numbers are, and how they lie there."""
    return (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype)
