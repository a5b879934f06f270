"""A small model's weights, and ways to write and spoil checkpoint files of them."""

import pickle
from pathlib import Path

import numpy as np

from maskformer.model.config import ModelConfig, PixelDecoderConfig, PredictorConfig, SwinConfig
from maskformer.model.seeded import seeded_tensor
from weight_conversion import safetensors_file, torch_files
from weight_conversion.spec import expected

CONFIG = ModelConfig(
    name="small",
    num_classes=3,
    backbone=SwinConfig(embed_dim=12, depths=(1, 1, 2, 1), num_heads=(1, 2, 3, 4), window_size=4),
    pixel_decoder=PixelDecoderConfig(conv_dim=32, mask_dim=32),
    predictor=PredictorConfig(
        hidden_dim=32, num_queries=5, nheads=4, dim_feedforward=24, dec_layers=2
    ),
)
"""A Swin model that every format can hold, of 0.9 MB."""


def state(config: ModelConfig = CONFIG, seed: int = 3) -> dict[str, np.ndarray]:
    """Seeded weights and the model's constants, in the order of the state dict."""
    return {
        name: spec.constant() if spec.constant else seeded_tensor(name, spec.shape, seed)
        for name, spec in expected(config).items()
    }


def declared(tensors: dict[str, np.ndarray]) -> list[torch_files.Declared]:
    return [(name, array.shape, array.dtype.name) for name, array in tensors.items()]


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    with path.open("wb") as file:
        safetensors_file.write(file, declared(tensors), tensors.values())
    return path


def write_pickle(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def write_torch(path: Path, content: object, **options: object) -> Path:
    import torch

    torch.save(content, path, **options)
    return path


def as_torch(tensors: dict[str, np.ndarray]) -> dict:
    import torch

    return {name: torch.from_numpy(array) for name, array in tensors.items()}


def flip_bit(path: Path, position: int, bit: int = 0) -> None:
    """Flips one bit of a file; a negative position counts from its end."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)
