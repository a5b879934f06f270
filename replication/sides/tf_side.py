"""The TensorFlow side of a comparison."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from maskformer.data.images import Size
from maskformer.data.targets import Target
from maskformer.family import MASKFORMER, family_of
from maskformer.inference.prediction import Prediction
from maskformer.model.config import ModelConfig
from maskformer.model.inputs import InputConfig
from maskformer.model.solver import SolverConfig
from replication.sides import tf_trainer
from replication.sides.implementation import Frame, Implementation
from replication.sides.weights import Weights

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras

PORT_AXES = partial(MASKFORMER.axis_names, image="NHWC", tokens="NSC")


def build_port(config: ModelConfig, weights: Weights, dtype: str) -> "tf_keras.Model":
    """The TensorFlow model with `weights`, computing in `dtype`."""
    import tf_impl
    from weight_conversion.layouts import torch_to_tf

    model = tf_impl.build(config, dtype)
    torch_to_tf(weights.state, model)
    return model


def with_products(passes: int) -> Implementation:
    """The TensorFlow side with products of float32 in so many passes of bfloat16, as on a TPU.

    Raises InputError for a number of passes that a TPU does not have, and where JAX, which executes
    the program, is not installed.
    """
    from tf_impl.tpu.products import check_passes

    check_passes(passes)
    words = f"{passes} {'pass' if passes == 1 else 'passes'}"
    return replace(
        TENSORFLOW,
        name=f"{TENSORFLOW.name}, {words}",
        title=f"{TENSORFLOW.title}, products in {words} of bfloat16",
        build=partial(_build_rounded, passes),
    )


def _build_rounded(passes: int, config: ModelConfig, weights: Weights, dtype: str) -> Any:
    from tf_impl.tpu.rounded_products import RoundedProducts

    outputs = family_of(config).outputs
    names = (outputs.pixels,) if config.is_per_pixel else (outputs.classes, outputs.masks)
    return RoundedProducts(build_port(config, weights, dtype), passes, names)


def port_drawn(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """What the TensorFlow model starts from with this seed, by state-dict key in torch's layout."""
    import tf_keras

    import tf_impl
    from weight_conversion.layouts import tf_variables

    tf_keras.utils.set_random_seed(seed)
    found = tf_variables(tf_impl.build(config, "float32"))
    return {
        key: layout.to_torch(variable.numpy())
        for key, (variable, layout) in found.items()
        if variable.dtype.is_floating
    }


def port_inputs(batch: np.ndarray, sizes: np.ndarray, dtype: str) -> dict[str, Any]:
    """The TensorFlow model's arguments for a batch uint8 [N,H,W,3] and its sizes int32 [N,2]."""
    return {"images": batch.astype(dtype), "sizes": sizes}


def tensor(array: np.ndarray) -> "tf.Tensor":
    """The array as a constant."""
    import tensorflow as tf

    return tf.constant(array)


def run(model: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's outputs for `port_inputs`."""
    _allow_many_sizes()
    return model(**{key: tensor(array) for key, array in inputs.items()})


def _allow_many_sizes() -> None:
    """Images of many sizes are many programs; TensorFlow's warning is for loops by accident."""
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


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
    if config.matching is None:
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
    owned = {id(variable): (key, layout) for key, (variable, layout) in _trainable(model).items()}
    return [owned[id(variable)] for variable in model.trainable_variables]


def _trainable(model: "tf_keras.Model") -> dict[str, tuple[Any, Any]]:
    """Every trainable variable and its layout by state-dict key, in the state dict's order."""
    from weight_conversion.layouts import tf_variables

    trainable = {id(variable) for variable in model.trainable_variables}
    return {key: one for key, one in tf_variables(model).items() if id(one[0]) in trainable}


def port_loss(model: "tf_keras.Model", targets: Any) -> Any:
    """The loss of a step as a function of the TensorFlow model's outputs."""
    from tf_impl.criterion import weighted_total
    from tf_impl.train_step import batch_losses

    return lambda outputs: weighted_total(
        batch_losses(model, outputs, targets)[0], model.config.loss
    )


def port_parameters(model: "tf_keras.Model") -> dict[str, tuple[Any, Any]]:
    """Each trainable variable by state-dict key, with what turns it into torch's layout."""
    return {key: ((one,), layout.to_torch) for key, (one, layout) in _trainable(model).items()}


class PortRun:
    """The TensorFlow side, one update at a time; dropout is off.

    `execution` is how a step runs: "graph", "xla" or "eager". Targets are padded to `most`, by
    default to those of the largest image of each batch.
    """

    def __init__(
        self,
        config: ModelConfig,
        solver: SolverConfig,
        weights: Weights,
        dtype: str,
        execution: str = "eager",
        most: int | None = None,
    ) -> None:
        from tf_impl.optimizer import build_optimizer
        from tf_impl.train_step import compiled_step, train_step

        self.config, self.dtype, self.most = config, dtype, most
        self.model = build_port(config, weights, dtype)
        optimizer = build_optimizer(self.model, solver, dtype)
        if execution == "eager":
            optimizer.build(self.model.trainable_variables)
            self.run: Any = partial(train_step, self.model, optimizer)
        else:
            compiled = execution == "xla"
            self.run = compiled_step(self.model, optimizer, jit_compile=compiled)

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

    def weights(self) -> dict[str, np.ndarray]:
        """The trainable variables by state-dict key, in torch's layout."""
        return keyed(self.model, [one.numpy() for one in self.model.trainable_variables])


def predict(
    outputs: Mapping[str, Any], config: ModelConfig, frame: Frame, results: Sequence[str]
) -> Prediction:
    """The results of one image's outputs, tensors [1,...], by the port's post-processing."""
    from tf_impl import inference

    # Every padded size is another program: compiling each takes longer than running it.
    how = {"canvas": frame.canvas, "jit_compile": False}
    sizes = ([frame.valid], [frame.size])
    return inference.predict(outputs, config, frame.padded, *sizes, results, **how)[0]


def predict_augmented(
    model: Any, image: np.ndarray, config: ModelConfig, inputs: InputConfig, size: Size
) -> np.ndarray:
    """Scores [K,H,W] of multi-scale and mirrored testing."""
    from tf_impl.inference import predict_with_augmentation

    _allow_many_sizes()
    return predict_with_augmentation(model, image, config, inputs, size)


def set_threads(count: int) -> None:
    """Lets TensorFlow compute with `count` threads; before any of its runs."""
    import tf_impl  # noqa: F401, I001  (selects tf_keras before TensorFlow is imported)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(count)


TENSORFLOW = Implementation(
    name="tf",
    title="TensorFlow",
    package="tensorflow",
    axes=PORT_AXES,
    build=build_port,
    drawn=port_drawn,
    inputs=port_inputs,
    tensor=tensor,
    run=run,
    batch=port_batch,
    loss=port_loss,
    updates=PortRun,
    predict=predict,
    predict_augmented=predict_augmented,
    trainer=tf_trainer.trainer,
    check_backbone=None,
    set_threads=set_threads,
)
