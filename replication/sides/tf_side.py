"""The TensorFlow side of a comparison: model, arguments, batches, losses, updates."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from maskformer.data.targets import Target
from maskformer.model.config import ModelConfig
from maskformer.model.solver import SolverConfig
from maskformer.model.tensor_axes import axis_names
from replication.sides.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import tf_keras


PORT_AXES = partial(axis_names, image="NHWC", tokens="NSC")


def build_port(config: ModelConfig, weights: Weights, dtype: str) -> "tf_keras.Model":
    """The TensorFlow model with `weights`, computing in `dtype`."""
    import tf_impl
    from weight_conversion.layouts import torch_to_tf

    model = tf_impl.build(config, dtype)
    torch_to_tf(weights.state, model)
    return model


def port_inputs(batch: np.ndarray, sizes: np.ndarray, dtype: str) -> dict[str, Any]:
    """The TensorFlow model's arguments for a batch uint8 [N,H,W,3] and its sizes int32 [N,2]."""
    return {"images": batch.astype(dtype), "sizes": sizes}


def port_batch(
    config: ModelConfig,
    images: np.ndarray,
    sizes: np.ndarray,
    targets: "Sequence[Target] | np.ndarray",
    dtype: str,
    max_targets: int | None = None,
) -> Any:
    """`tf_impl.train_step.Batch` of images uint8 [N,H,W,3] and their targets.

    A per-pixel head takes labels int [N,H,W] as `targets`. `max_targets` is the number that targets
    are padded to, by default that of the largest image.
    """
    import tensorflow as tf

    from tf_impl.matcher import pad_targets
    from tf_impl.train_step import Batch

    inputs = port_inputs(images, sizes, dtype)
    if config.is_per_pixel:
        wanted: Any = tf.constant(np.asarray(targets, np.int32))
    else:
        most = max((len(target["labels"]) for target in targets), default=0)
        wanted = pad_targets(targets, max(most, 1) if max_targets is None else max_targets)
    return Batch(tf.constant(inputs["images"]), tf.constant(inputs["sizes"]), wanted)


def keyed(model: "tf_keras.Model", values: "Sequence[np.ndarray | None]") -> dict[str, np.ndarray]:
    """One array per trainable variable of `model`, by state-dict key and in torch's layout; a
    variable whose value is None is left out."""
    return {
        key: layout.to_torch(value)
        for (key, layout), value in zip(trainable_layouts(model), values, strict=True)
        if value is not None
    }


def trainable_layouts(model: "tf_keras.Model") -> list[tuple[str, Any]]:
    """State-dict key and layout of each trainable variable of `model`, in its order."""
    from weight_conversion.layouts import tf_variables

    owned = {id(variable): (key, layout) for key, (variable, layout) in tf_variables(model).items()}
    return [owned[id(variable)] for variable in model.trainable_variables]


def port_loss(model: "tf_keras.Model", targets: Any) -> Any:
    """The loss of a step as a function of the TensorFlow model's outputs."""
    from tf_impl.criterion import weighted_total
    from tf_impl.train_step import batch_losses

    return lambda outputs: weighted_total(
        batch_losses(model, outputs, targets)[0], model.config.loss
    )


def port_parameters(model: "tf_keras.Model") -> dict[str, tuple[Any, str]]:
    """Every trainable variable by state-dict key, with its axes named in torch's order."""
    from weight_conversion.layouts import tf_variables

    trainable = {id(variable) for variable in model.trainable_variables}
    return {
        key: (
            variable,
            "".join("ABCDEFGH"[axis] for axis in layout.axes or range(len(variable.shape))),
        )
        for key, (variable, layout) in tf_variables(model).items()
        if id(variable) in trainable
    }


class PortRun:
    """The TensorFlow side, one update at a time; dropout is off.

    `execution` is how a step runs: "graph", "xla" or "eager". Targets are padded to `most`.
    """

    def __init__(
        self,
        config: ModelConfig,
        solver: SolverConfig,
        weights: Any,
        dtype: str,
        execution: str,
        most: int,
    ) -> None:
        from functools import partial

        from tf_impl.optimizer import build_optimizer
        from tf_impl.train_step import compiled_step, train_step
        from weight_conversion.layouts import tf_variables

        self.config, self.dtype, self.most = config, dtype, most
        self.model = build_port(config, weights, dtype)
        optimizer = build_optimizer(self.model, solver, dtype)
        if execution == "eager":
            optimizer.build(self.model.trainable_variables)
            self.run: Any = partial(train_step, self.model, optimizer)
        else:
            compiled = execution == "xla"
            self.run = compiled_step(self.model, optimizer, jit_compile=compiled)
        trainable = {id(variable) for variable in self.model.trainable_variables}
        self.variables = {
            key: (variable, layout)
            for key, (variable, layout) in tf_variables(self.model).items()
            if id(variable) in trainable
        }

    def step(self, images: Any, sizes: Any, targets: Any) -> dict[str, Any]:
        """One update: losses, total, norm, pairs."""

        batch = port_batch(self.config, images, sizes, targets, self.dtype, self.most)
        result = self.run(batch)
        return {
            "losses": {name: float(value) for name, value in result.losses.items()},
            "total": float(result.total),
            "norm": float(result.gradient_norm),
            "pairs": result.matching.target_of_query.numpy(),
        }

    def weights(self) -> "dict[str, np.ndarray]":
        """The trainable variables by state-dict key, in torch's layout."""
        return {
            key: layout.to_torch(variable.numpy())
            for key, (variable, layout) in self.variables.items()
        }
