"""What a training comparison needs of both sides: targets, batches, gradients by key."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maskformer.model.config import ModelConfig

if TYPE_CHECKING:
    import tf_keras

Target = Mapping[str, np.ndarray]


def synthetic_targets(
    config: ModelConfig, sizes: np.ndarray, shape: tuple[int, int], index: int = 0
) -> list[dict[str, np.ndarray]]:
    """Per image 3 to 7 segments that do not overlap: labels int64 [t], masks bool [t,H,W].

    Images that follow each other have different numbers of them.

    Args:
        config: gives the number of classes.
        sizes: valid (height, width) of each image, int [N,2]; padding belongs to no segment.
        shape: H and W of the batch.
        index: number of the batch; another one gives other targets.
    """
    rng = np.random.default_rng([index, *shape, len(sizes)])
    targets = []
    for height, width in sizes:
        count = int(rng.integers(3, 8))
        if targets and count == len(targets[-1]["labels"]):
            count = count + 1 if count < 7 else 3
        centres = rng.uniform(0, 1, (count, 2)) * (height, width)
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        distance = (rows - centres[:, 0, None, None]) ** 2 + (
            columns - centres[:, 1, None, None]
        ) ** 2
        owner = np.where((rows < height) & (columns < width), distance.argmin(axis=0), -1)
        targets.append(
            {
                "labels": rng.integers(0, config.num_classes, count),
                "masks": owner == np.arange(count)[:, None, None],
            }
        )
    return targets


def label_map(targets: Sequence[Target], ignore_value: int) -> np.ndarray:
    """Labels int64 [N,H,W] of a per-pixel head from the segments of `synthetic_targets`."""
    maps = []
    for target in targets:
        labels = np.full(target["masks"].shape[1:], ignore_value, np.int64)
        for label, mask in zip(target["labels"], target["masks"], strict=True):
            labels[mask] = label
        maps.append(labels)
    return np.stack(maps)


def reference_batch(
    config: ModelConfig,
    images: np.ndarray,
    sizes: np.ndarray,
    targets: "Sequence[Target] | np.ndarray",
    dtype: str,
) -> Any:
    """`torch_reference.train_step.Batch` of images uint8 [N,H,W,3] and their targets.

    A per-pixel head takes labels int [N,H,W] as `targets`.
    """
    import torch

    from replication.pair import reference_inputs
    from torch_reference.train_step import Batch

    inputs = reference_inputs(images, sizes, dtype)
    if config.is_per_pixel:
        wanted: Any = torch.from_numpy(np.asarray(targets, np.int64))
    else:
        wanted = [
            {name: torch.from_numpy(np.array(array)) for name, array in target.items()}
            for target in targets
        ]
    return Batch(torch.from_numpy(inputs["images"]), torch.from_numpy(inputs["sizes"]), wanted)


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

    from replication.pair import port_inputs
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


def zero_in_theory(config: ModelConfig, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Which elements of a parameter have no influence on the loss, bool of `shape` (torch layout).

    Keys' biases shift all logits of a softmax alike. The first decoder layer attends to targets
    that are zero: in a post-norm model its queries, keys and values are the same for every query
    but for the query embedding, and its values are constant, so that attention weights do not
    matter; in a pre-norm model the norm of zeros is its bias, whatever its weight.
    """
    zero = np.zeros(shape, bool)
    if key.endswith(".in_proj_bias"):
        third = shape[0] // 3
        zero[third : 2 * third] = True
    first = "sem_seg_head.predictor.transformer.decoder.layers.0."
    if key == f"{first}self_attn.in_proj_weight":
        zero[:] = True
    if config.predictor.pre_norm and key == f"{first}norm1.weight":
        zero[:] = True
    return zero


def reference_loss(model: Any, targets: Any) -> Any:
    """The loss of a step as a function of the PyTorch model's outputs."""
    from torch_reference.criterion import weighted_total
    from torch_reference.train_step import batch_losses

    return lambda outputs: weighted_total(batch_losses(model, outputs, targets), model.config.loss)


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
