"""SegFormer of transformers beside KerasHub's, which has no converter of its own.

In the port, height and width are taken for the root of the number of tokens, so that only square
images are right; and its `Resizing` trains by default, which reaches later batch norms.
"""

from typing import Any

import numpy as np
import torch

import parity
from examples.ports import mends

SIZES = (8, 16, 24, 32)
HEADS = (1, 2, 3, 4)
DECODER = 16
STRIDES = (4, 8, 16, 32)  # of the tokens of each stage, in pixels
SQUARE, LONG = (64, 64), (128, 32)  # height and width of images


def pair(size: tuple[int, int] = SQUARE, seed: int = 0) -> parity.Pair:
    """Both, without the last convolution that classifies, and no map."""
    model = reference(seed)
    images = np.random.default_rng(seed).normal(size=(2, 3, *size)).astype(np.float32)
    port_images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    state = {key: one.numpy().copy() for key, one in model.state_dict().items()}
    return parity.Pair(model, lambda: port(size, state), {"pixel_values": images}, (port_images,))


def reference(seed: int) -> torch.nn.Module:
    """The model of transformers with random weights, none of them zeros or ones throughout."""
    import transformers

    from parity.frameworks.torch.weights import vary

    torch.manual_seed(seed)
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=SIZES,
        num_attention_heads=HEADS,
        decoder_hidden_size=DECODER,
    )
    model = transformers.SegformerForSemanticSegmentation(config)
    model.decode_head.classifier = torch.nn.Identity()
    return vary(model.eval(), seed)


def port(size: tuple[int, int], state: dict[str, np.ndarray]) -> Any:
    """KerasHub's port with the reference's weights."""
    import keras_hub

    encoder = keras_hub.models.MiTBackbone(
        image_shape=(*size, 3),
        num_layers=4,
        hidden_dims=list(SIZES),
        layerwise_depths=[1, 1, 1, 1],
        layerwise_num_heads=list(HEADS),
        layerwise_sr_ratios=[8, 4, 2, 1],
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        max_drop_path_rate=0.1,
    )
    model = keras_hub.models.SegFormerBackbone(image_encoder=encoder, projection_filters=DECODER)
    norms = [one for one in encoder.layers if type(one).__name__ == "LayerNormalization"]
    for stage in range(len(SIZES)):
        key = f"segformer.stages.{stage}"
        patches = encoder.get_layer(f"patch_and_embed_{stage}")
        _load(patches.proj, state, f"{key}.patch_embeddings.proj")
        _load(patches.norm, state, f"{key}.patch_embeddings.layer_norm")
        _load(norms[stage], state, f"{key}.layer_norm")
        _load(model.mlp_blocks[stage], state, f"decode_head.linear_projections.{stage}.proj")
        _load_block(encoder.get_layer(f"hierarchical_encoder_{stage}_0"), state, f"{key}.blocks.0")
    _load(model.linear_fuse.layers[0], state, "decode_head.linear_fuse")
    _load(model.linear_fuse.layers[1], state, "decode_head.batch_norm")
    return model


def mended(size: tuple[int, int] = SQUARE) -> mends.Mend:
    """Blocks know height and width, GELU is exact, norms have the reference's epsilon, and a plain
    call does not train."""

    def change(model: Any) -> None:
        for stage in range(len(SIZES)):
            block = model.image_encoder.get_layer(f"hierarchical_encoder_{stage}_0")
            grid = tuple(side // STRIDES[stage] for side in size)
            block.mlp.call = _feed_forward(block.mlp, grid)
            if hasattr(block.attn, "sr"):
                block.attn.sr.call = _on_grid(block.attn.sr.call, grid)

    return mends.every(mends.in_port(change), mends.epsilon(1e-5), mends.not_training)


def _on_grid(call: Any, grid: tuple[int, int]) -> Any:
    import keras

    return lambda x: call(keras.ops.reshape(x, (-1, *grid, x.shape[-1])))


def _feed_forward(mlp: Any, grid: tuple[int, int]) -> Any:
    """Two layers with a depthwise convolution between them (Xie et al., 2021, arXiv:2105.15203)."""
    import keras

    def call(x: Any) -> Any:
        inner = mlp.dwconv(keras.ops.reshape(mlp.fc1(x), (-1, *grid, mlp.fc1.units)))
        inner = keras.ops.reshape(inner, (-1, grid[0] * grid[1], mlp.fc1.units))
        return mlp.fc2(keras.activations.gelu(inner, approximate=False))

    return call


def _load_block(block: Any, state: dict[str, np.ndarray], key: str) -> None:
    _load(block.norm1, state, f"{key}.layernorm_before")
    _load(block.norm2, state, f"{key}.layernorm_after")
    for ours, theirs in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("proj", "o_proj")):
        _load(getattr(block.attn, ours), state, f"{key}.attention.{theirs}")
    if hasattr(block.attn, "sr"):
        reduction = f"{key}.attention.sequence_reduction"
        _load(block.attn.sr, state, f"{reduction}.sequence_reduction")
        _load(block.attn.norm, state, f"{reduction}.layer_norm")
    _load(block.mlp.fc1, state, f"{key}.mlp.fc1")
    _load(block.mlp.dwconv, state, f"{key}.mlp.dwconv.dwconv")
    _load(block.mlp.fc2, state, f"{key}.mlp.fc2")


def _load(layer: Any, state: dict[str, np.ndarray], key: str) -> None:
    names = ("weight", "bias", "running_mean", "running_var")
    arrays = [state[f"{key}.{name}"] for name in names if f"{key}.{name}" in state]
    if arrays[0].ndim == 4:
        depthwise = type(layer).__name__ == "DepthwiseConv2D"
        arrays[0] = arrays[0].transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    elif arrays[0].ndim == 2:
        arrays[0] = arrays[0].T
    layer.set_weights(arrays)
