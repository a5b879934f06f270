"""Layout rules: how a tensor is laid out on either side, by the kind of module that owns it.

A state-dict key is the attribute path of the TF variable, so no name is ever translated; only axes
move. Every rule is its own inverse's argument list, and every tensor is used exactly once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from parity.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

_TILE = 64


@dataclass(frozen=True)
class Layout:
    """A permutation of axes from torch's order to TF's; empty means unchanged."""

    name: str
    axes: tuple[int, ...] = ()

    def to_tf(self, tensor: np.ndarray) -> np.ndarray:
        """`tensor` in TF's axis order, contiguous; values untouched."""
        if not self.axes:
            return np.ascontiguousarray(tensor)
        return _in_tiles(tensor.transpose(self.axes), axes=(tensor.ndim - 2, tensor.ndim - 1))

    def to_torch(self, tensor: np.ndarray) -> np.ndarray:
        """`tensor` in torch's axis order, contiguous; values untouched."""
        if not self.axes:
            return np.ascontiguousarray(tensor)
        return _in_tiles(tensor.transpose(np.argsort(self.axes)), axes=(0, 1))

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The torch shape of a tensor whose TF shape is `shape`."""
        return tuple(shape[i] for i in np.argsort(self.axes)) if self.axes else tuple(shape)


def _in_tiles(view: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
    """A contiguous copy of `view`, made in tiles over two `axes`, the output and input channels.

    In one piece, every value of a large matrix would be a cache miss.
    """
    first, second = axes
    copy = np.empty(view.shape, view.dtype)
    part = [slice(None)] * view.ndim
    for row in range(0, view.shape[first], _TILE):
        part[first] = slice(row, row + _TILE)
        for column in range(0, view.shape[second], _TILE):
            part[second] = slice(column, column + _TILE)
            copy[tuple(part)] = view[tuple(part)]
    return copy


SAME = Layout("same")
OIHW_HWIO = Layout("OIHW to HWIO", (2, 3, 1, 0))
OUT_IN_IN_OUT = Layout("[out,in] to [in,out]", (1, 0))

# (kind of module, name of its tensor) -> rule; a pair that is not here is an error, not a guess.
RULES: dict[tuple[str, str], Layout] = {
    ("Conv2d", "weight"): OIHW_HWIO,
    ("Conv2d", "bias"): SAME,
    ("Linear", "weight"): OUT_IN_IN_OUT,
    ("Linear", "bias"): SAME,
    ("MultiheadAttention", "in_proj_weight"): OUT_IN_IN_OUT,
    ("MultiheadAttention", "in_proj_bias"): SAME,
    ("FrozenBatchNorm2d", "weight"): SAME,
    ("FrozenBatchNorm2d", "bias"): SAME,
    ("FrozenBatchNorm2d", "running_mean"): SAME,
    ("FrozenBatchNorm2d", "running_var"): SAME,
    ("GroupNorm", "weight"): SAME,
    ("GroupNorm", "bias"): SAME,
    ("LayerNorm", "weight"): SAME,
    ("LayerNorm", "bias"): SAME,
    ("Embedding", "weight"): SAME,
    ("WindowAttention", "relative_position_bias_table"): SAME,
    ("WindowAttention", "relative_position_index"): SAME,
    ("SetCriterion", "empty_weight"): SAME,
}


def tf_variables(model: "tf.Module") -> dict[str, tuple["tf.Variable", Layout]]:
    """Every variable of `model` by state-dict key, with the rule of the module that owns it.

    Raises InputError where a module kind has no rule.
    """
    from tf_impl.variables import owned_variables

    found = {}
    for key, (variable, kind) in owned_variables(model).items():
        rule = RULES.get((kind, key.rpartition(".")[2]))
        if rule is None:
            raise InputError(
                f"no layout rule for {key}, a tensor of a {kind}",
                f"known kinds: {', '.join(sorted({kind for kind, _ in RULES}))}",
                "add the rule and its inverse to weight_conversion/layouts.py",
            )
        found[key] = (variable, rule)
    return found


def _grouped(kind: str, problems: list[str]) -> list[str]:
    return [f"{len(problems)} {kind}:", *(f"  {problem}" for problem in problems)]


def check_complete(
    state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[tuple[int, ...], str]]
) -> None:
    """Raises InputError unless `state` has exactly the `expected` keys, shapes and dtype kinds.

    `expected` maps each key to its torch shape and dtype name. The error lists every missing,
    unexpected and mis-shaped tensor and every one with NaN or infinity, grouped.
    """
    missing = [f"{k} {list(expected[k][0])}" for k in expected if k not in state]
    unexpected = [f"{k} {list(np.shape(state[k]))}" for k in state if k not in expected]
    misshaped, not_finite = [], []
    for key, (shape, _) in expected.items():
        if key not in state:
            continue
        tensor = np.asarray(state[key])
        if tensor.shape != tuple(shape):
            misshaped.append(f"{key} is {list(tensor.shape)}, expected {list(shape)}")
        elif tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            bad = int(np.size(tensor) - np.isfinite(tensor).sum())
            not_finite.append(f"{key} has {bad} of {tensor.size}")
    details: list[str] = []
    for kind, problems in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", misshaped),
        ("with NaN or infinity", not_finite),
    ):
        if problems:
            details += _grouped(kind, problems)
    if details:
        raise InputError(
            "the weights do not fit the model", *details, "give weights of this very configuration"
        )


def torch_to_tf(state: Mapping[str, np.ndarray], model: "tf.Module") -> None:
    """Assigns every tensor of a torch state dict to its TF variable, each used exactly once.

    Args:
        state: state-dict key to array in torch's layout. Values are cast to the variable's dtype,
            which is exact from float32 to float64.
        model: a model from `tf_impl.build`.

    Raises:
        InputError: listing all missing, unexpected, mis-shaped and non-finite tensors; nothing is
            assigned then.
    """
    variables = tf_variables(model)
    check_complete(state, torch_shapes(variables))
    for key, (variable, layout) in variables.items():
        variable.assign(layout.to_tf(np.asarray(state[key])).astype(variable.dtype.as_numpy_dtype))


def torch_shapes(
    variables: Mapping[str, tuple["tf.Variable", Layout]],
) -> dict[str, tuple[tuple[int, ...], str]]:
    """The torch shape and dtype name that each TF variable's tensor has in a state dict."""
    return {
        key: (layout.torch_shape(tuple(variable.shape)), variable.dtype.name)
        for key, (variable, layout) in variables.items()
    }


def tf_to_torch(model: "tf.Module") -> dict[str, np.ndarray]:
    """The torch state dict of a TF model: every variable once, in torch's layout and its dtype."""
    return {
        key: layout.to_torch(variable.numpy())
        for key, (variable, layout) in tf_variables(model).items()
    }
