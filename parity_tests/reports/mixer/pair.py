"""A Mixer in PyTorch beside its port to Keras, without and with three mistakes.

The recordings beside this file are what `parity audit --pair` said of them, from the root:

    parity audit --pair parity_tests/reports/mixer/pair.py:faults --isolate --out DIR
    parity audit --pair parity_tests/reports/mixer/pair.py:equal --isolate --out DIR
"""

import numpy as np
import tensorflow as tf
import tf_keras
import torch
from torch import nn

import parity

WIDTH, TOKENS = 24, 12


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.tokens = nn.LayerNorm(WIDTH, eps=1e-6), Mlp(TOKENS, 16)
        self.norm2, self.channels = nn.LayerNorm(WIDTH, eps=1e-6), Mlp(WIDTH, 32)

    def forward(self, x):
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 8, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, images):
        x = self.stem(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class PortMlp(tf_keras.layers.Layer):
    def __init__(self, width, hidden, approximate):
        super().__init__()
        self.inner, self.outer = tf_keras.layers.Dense(hidden), tf_keras.layers.Dense(width)
        self.approximate = approximate

    def call(self, x):
        return self.outer(tf.nn.gelu(self.inner(x), approximate=self.approximate))


class PortBlock(tf_keras.layers.Layer):
    def __init__(self, epsilon, approximate):
        super().__init__()
        self.token_norm = tf_keras.layers.LayerNormalization(epsilon=epsilon)
        self.channel_norm = tf_keras.layers.LayerNormalization(epsilon=1e-6)
        self.mix_tokens = PortMlp(TOKENS, 16, False)
        self.mix_channels = PortMlp(WIDTH, 32, approximate)

    def call(self, x):
        y = self.mix_tokens(tf.transpose(self.token_norm(x), (0, 2, 1)))
        x = x + tf.transpose(y, (0, 2, 1))
        return x + self.mix_channels(self.channel_norm(x))


class PortMixer(tf_keras.Model):
    def __init__(self, epsilon=1e-6, approximate=False, summed=False):
        super().__init__()
        self.patches = tf_keras.layers.Conv2D(WIDTH, 8, 8)
        self.mixers = [PortBlock(epsilon, False), PortBlock(1e-6, approximate)]
        self.classifier = tf_keras.layers.Dense(5)
        self.summed = summed

    def call(self, images):
        x = self.patches(images)
        x = tf.reshape(x, (tf.shape(x)[0], TOKENS, WIDTH))
        for mixer in self.mixers:
            x = mixer(x)
        return self.classifier(tf.reduce_sum(x, 1) if self.summed else tf.reduce_mean(x, 1))


torch.manual_seed(0)
images = np.random.default_rng(0).normal(size=(2, 3, 24, 32)).astype(np.float32)
equal = parity.Pair(Mixer().eval(), PortMixer, (images,))
faults = parity.Pair(Mixer().eval(), lambda: PortMixer(1e-3, True, True), (images,))
