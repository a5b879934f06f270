"""A block in PyTorch beside its port to Keras 3, whose norm keeps the library's epsilon.

keras3.json is what `parity audit --pair` said of `pair`, as pair.py has it, with `--json`.
"""

import keras
import numpy as np
import torch
from torch import nn

import parity


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return x + self.down(nn.functional.relu(self.up(self.norm(x))))


class Port(keras.Model):
    def __init__(self):
        super().__init__()
        self.layer_norm = keras.layers.LayerNormalization()
        self.inner = keras.layers.Dense(32, activation="relu")
        self.outer = keras.layers.Dense(16)

    def call(self, x):
        return x + self.outer(self.inner(self.layer_norm(x)))


torch.manual_seed(0)
tokens = np.random.default_rng(0).normal(size=(2, 7, 16)).astype(np.float32)
pair = parity.Pair(Block().eval(), Port, (tokens,))
