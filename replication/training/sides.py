"""Both sides of a MaskFormer's training, as the engine trains them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.auditing.pair import Built
from parity.frameworks import registry
from parity.training.sides import Holding, Side

if TYPE_CHECKING:
    from maskformer.model.solver import SolverConfig


def reference_side(model: Any, solver: "SolverConfig", dtype: str, **given: Any) -> Side:
    """The reference, a PyTorch module, with its optimizer and schedule.

    `given` are the other fields of a `Side`: inputs, loss and axes, of a model that is run.
    """
    from torch_reference.optimizer import build_optimizer
    from torch_reference.schedule import SolverSchedule

    held = {key: (key, np.asarray, np.asarray) for key, _ in model.named_parameters()}
    return _side(
        model,
        dtype,
        held,
        make=lambda parameters: build_optimizer(model, solver),
        schedule=lambda optimizer: SolverSchedule(optimizer, solver),
        **given,
    )


def port_side(model: Any, solver: "SolverConfig", dtype: str, **given: Any) -> Side:
    """The same of the port, a `tf.Module`; its schedule is part of its optimizer."""
    from parity.frameworks.tensorflow.training import trained
    from tf_impl.optimizer import build_optimizer
    from tf_impl.variables import owned_variables
    from weight_conversion.layouts import RULES, SAME

    keys = {id(one): (key, kind) for key, (one, kind) in owned_variables(model).items()}
    held = {}
    for path, variable in trained(model).items():
        key, kind = keys[id(variable)]
        layout = RULES.get((kind, key.rpartition(".")[2]), SAME)
        held[key] = (path, layout.to_torch, layout.to_tf)
    return _side(
        model, dtype, held, make=lambda model: build_optimizer(model, solver, dtype), **given
    )


def _side(model: Any, dtype: str, held: Mapping[str, tuple], **given: Any) -> Side:
    fields = {"inputs": (), "targets": (), "loss": None, "axes": None, "naming": None, **given}
    holdings = [
        Holding(
            (key,),
            (path,),
            lambda array, there=there: [there(array)],
            lambda array, back=back: [back(array)],
        )
        for key, (path, there, back) in held.items()
    ]
    return Side(Built(registry.of(model), model, dtype), holdings=holdings, **fields)


def reference_alone(solver: "SolverConfig", dtype: str, sizes: Sequence[int]) -> Side:
    """The reference's optimizer with parameters `part0`, `part1`, ... of these sizes, zeros."""
    import torch

    module = torch.nn.Module()
    for index, size in enumerate(sizes):
        zeros = torch.zeros(size, dtype=getattr(torch, dtype))
        module.register_parameter(f"part{index}", torch.nn.Parameter(zeros))
    return reference_side(module, solver, dtype)


def port_alone(solver: "SolverConfig", dtype: str, sizes: Sequence[int]) -> Side:
    """The same of the port."""
    import tf_impl  # noqa: F401, I001  (selects tf_keras before TensorFlow is imported)
    import tensorflow as tf

    module = tf.Module()
    for index, size in enumerate(sizes):
        setattr(module, f"part{index}", tf.Variable(np.zeros(size, dtype)))
    return port_side(module, solver, dtype)
