"""What a training comparison needs of both sides: targets, batches, gradients by key."""

import numpy as np

from maskformer.model.config import ModelConfig


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
