"""What a configuration's state dict must hold: names, shapes, dtypes, layout rules, constants."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from maskformer.family import family_of
from maskformer.model.config import ModelConfig
from parity.errors import InputError
from weight_conversion.layouts import RULES, Layout


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a state dict; `shape` is torch's.

    `constant` computes its value where the configuration alone fixes it (a Swin window's index
    table, the class weights); None for a weight.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: Layout
    constant: Callable[[], np.ndarray] | None = None

    @property
    def tf_shape(self) -> tuple[int, ...]:
        """The shape of the TF variable."""
        axes = self.layout.axes
        return tuple(self.shape[axis] for axis in axes) if axes else self.shape


@functools.lru_cache(maxsize=8)
def expected(config: ModelConfig) -> dict[str, TensorSpec]:
    """The tensors of `config`'s state dict in its order.

    The torch model is built without memory for its tensors; where PyTorch is not installed the
    TensorFlow model says the same, in an order of its own.

    Raises:
        InputError: a module of the model has no layout rule.
    """
    try:
        import torch
    except ImportError:
        return expected_of_tensorflow(config)
    from torch.overrides import TorchFunctionMode

    import torch_reference

    class WithoutValues(TorchFunctionMode):
        """Leaves out the random draws: on tensors without memory they would load a compiler."""

        def __torch_function__(self, function, types, arguments=(), named=None):
            if getattr(function, "__name__", "") in ("normal_", "uniform_"):
                return arguments[0] if arguments else named["tensor"]
            return function(*arguments, **(named or {}))

    with torch.device("meta"), WithoutValues():
        model = torch_reference.build(config)
    owners, constant = dict(model.named_modules()), family_of(config).state.constant
    found = {}
    for name, tensor in model.state_dict().items():
        path, _, leaf = name.rpartition(".")
        layout = _layout(owners[path], leaf, name)
        shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        found[name] = TensorSpec(name, shape, dtype, layout, constant(config, leaf, shape))
    return found


def expected_of_tensorflow(config: ModelConfig) -> dict[str, TensorSpec]:
    """The same tensors as `expected`, from the TensorFlow model, in the order of its variables."""
    import tf_impl
    from weight_conversion.layouts import tf_variables

    constant, found = family_of(config).state.constant, {}
    for name, (variable, layout) in tf_variables(tf_impl.build(config)).items():
        shape, leaf = layout.torch_shape(variable.shape), name.rpartition(".")[2]
        value = constant(config, leaf, shape)
        dtype = variable.dtype.name if value is None else value().dtype.name
        found[name] = TensorSpec(name, shape, dtype, layout, value)
    return found


def _layout(owner: object, leaf: str, name: str) -> Layout:
    """The rule of the module's class or of the nearest class it is derived from."""
    for kind in type(owner).__mro__:
        if (kind.__name__, leaf) in RULES:
            return RULES[kind.__name__, leaf]
    raise InputError(
        f"no layout rule for {name}, a tensor of a {type(owner).__name__}",
        f"known kinds: {', '.join(sorted({kind for kind, _ in RULES}))}",
    )
