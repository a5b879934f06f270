"""A port of more than 150 modules with seven mistakes that published ports have: all are named."""

import time

import numpy as np
import tensorflow as tf
import tf_keras
import torch
from torch import nn
from torch.nn import functional as F

from parity.audits import Pair, audit
from parity.frameworks.torch.weights import vary
from parity.names import Names
from parity.weights import Weights
from reports.audit_story import alike

K = tf_keras.layers
WIDTH, HEADS, DEEP, LAST = 8, 2, 16, 6


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x, memory):
        def split(t):
            return t.reshape(*t.shape[:2], HEADS, -1).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(memory)), split(self.value(memory))
        scores = (q @ k.transpose(-1, -2)) * (WIDTH // HEADS) ** -0.5
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


class Layer(nn.Module):
    def __init__(self, cross):
        super().__init__()
        self.attention, self.norm1 = Attention(), nn.LayerNorm(WIDTH)
        self.cross = Attention() if cross else None
        self.norm2 = nn.LayerNorm(WIDTH)
        self.norm3 = nn.LayerNorm(WIDTH) if cross else None
        self.linear1, self.linear2 = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)

    def forward(self, x, memory=None):
        x = self.norm1(x + self.attention(x, x))
        if self.cross is not None:
            x = self.norm3(x + self.cross(x, memory))
        return self.norm2(x + self.linear2(torch.relu(self.linear1(x))))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer(False) for _ in range(DEEP))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer(True) for _ in range(LAST))
        self.queries = nn.Parameter(torch.randn(5, WIDTH))

    def forward(self, memory):
        x = self.queries[None].expand(len(memory), -1, -1)
        for layer in self.layers:
            x = layer(x, memory)
        return x


class Position(nn.Module):
    def forward(self, mask):
        return mask.to(torch.get_default_dtype()).cumsum(1)[..., None] / 10


class Embed(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = Position()

    def forward(self, features, mask):
        small = F.interpolate(mask[:, None].to(features.dtype), features.shape[-2:])[:, 0] > 0.5
        tokens = features.flatten(2).transpose(1, 2)
        return tokens + self.position(small.flatten(1))


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        self.lateral, self.mixed = nn.Conv2d(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, fine, coarse):
        up = F.interpolate(coarse, fine.shape[-2:], mode="nearest")
        return self.mixed(self.lateral(fine) + up)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, 2, 1)
        self.fine = nn.Conv2d(WIDTH, WIDTH, 2, 2)
        self.coarse = nn.Conv2d(WIDTH, WIDTH, 2, 2)
        self.embed, self.encoder, self.neck = Embed(), Encoder(), Neck()
        self.decoder, self.head = Decoder(), nn.Linear(WIDTH, 4)

    def forward(self, images, mask):
        fine = self.fine(F.relu(self.stem(images)))
        coarse = self.coarse(fine)
        tokens = self.encoder(self.embed(coarse, mask))
        encoded = tokens.transpose(1, 2).reshape(coarse.shape)
        pixels = self.neck(fine, encoded)
        found = self.decoder(tokens)
        return self.head(found), pixels


class PortAttention(K.Layer):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (
            K.Dense(WIDTH, use_bias=False) for _ in "qkvo"
        )

    def call(self, x, memory):
        def split(t):
            return tf.transpose(tf.reshape(t, [t.shape[0], t.shape[1], HEADS, -1]), [0, 2, 1, 3])

        q, k, v = split(self.query(x)), split(self.key(memory)), split(self.value(memory))
        scores = tf.matmul(q, k, transpose_b=True) * (WIDTH // HEADS) ** -0.5
        found = tf.transpose(tf.matmul(tf.nn.softmax(scores), v), [0, 2, 1, 3])
        return self.out(tf.reshape(found, x.shape))


class PortLayer(K.Layer):
    def __init__(self, cross):
        super().__init__()
        self.attention, self.norm1 = PortAttention(), K.LayerNormalization()
        self.cross = PortAttention() if cross else None
        self.norm2 = K.LayerNormalization()
        self.norm3 = K.LayerNormalization() if cross else None
        self.linear1, self.linear2 = K.Dense(12), K.Dense(WIDTH)

    def call(self, x, memory=None):
        x = self.norm1(x + self.attention(x, x))
        if self.cross is not None:
            x = self.norm3(x + self.cross(x, memory))
        return self.norm2(x + self.linear2(tf.nn.relu(self.linear1(x))))


class PortEncoder(K.Layer):
    def __init__(self):
        super().__init__()
        self.blocks, self.last = [PortLayer(False) for _ in range(DEEP)], K.LayerNormalization()

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.last(x)


class PortDecoder(K.Layer):
    def __init__(self):
        super().__init__()
        self.blocks = [PortLayer(True) for _ in range(LAST)]

    def build(self, shape):
        self.queries = self.add_weight("queries", (5, WIDTH))

    def call(self, memory):
        x = tf.tile(self.queries[None], [memory.shape[0], 1, 1])
        for block in self.blocks:
            x = block(x, memory)
        return x


class PortPosition(K.Layer):
    def call(self, mask):
        return tf.cumsum(tf.cast(mask, self.compute_dtype), 1)[..., None] / 10


class PortEmbed(K.Layer):
    def __init__(self):
        super().__init__()
        self.position = PortPosition()

    def call(self, features, mask):
        tokens = tf.reshape(features, [features.shape[0], -1, WIDTH])
        return tokens + self.position(tf.reduce_any(tf.not_equal(tokens, 0), -1))


class PortNeck(K.Layer):
    def __init__(self):
        super().__init__()
        self.lateral, self.mixed = K.Conv2D(WIDTH, 1), K.Conv2D(WIDTH, 1)

    def call(self, fine, coarse):
        up = tf.image.resize(coarse, fine.shape[1:3], "nearest")
        return self.mixed(self.lateral(fine) + up)


class PortModel(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.stem = K.Conv2D(WIDTH, 3, 2, padding="same")
        self.fine, self.coarse = K.Conv2D(WIDTH, 2, 2), K.Conv2D(WIDTH, 2, 2)
        self.embed, self.encoder, self.neck = PortEmbed(), PortEncoder(), PortNeck()
        self.decoder, self.head = PortDecoder(), K.Dense(4)

    def call(self, images, mask):
        fine = self.fine(tf.nn.relu(self.stem(images)))
        coarse = self.coarse(fine)
        tokens = self.encoder(self.embed(coarse, mask))
        encoded = tf.reshape(tokens, coarse.shape)
        pixels = self.neck(fine, encoded)
        found = self.decoder(tf.reshape(coarse, tokens.shape))
        return self.head(found), pixels


WHOLE = ("stem", "fine", "coarse", "embed", "embed.position", "encoder", "neck", "neck.lateral")
WHOLE += ("neck.mixed", "decoder", "head")
IN_LAYER = ("", ".attention", ".norm1", ".norm2", ".linear1", ".linear2")
IN_ATTENTION = ("query", "key", "value", "out")


def names():
    modules = {name: name for name in WHOLE}
    for side, more in (("encoder", ()), ("decoder", (".cross", ".norm3"))):
        for part in (*IN_LAYER, *more):
            modules[f"{side}.blocks.*{part}"] = f"{side}.layers.*{part}"
        for part in ("attention", *(("cross",) if more else ())):
            for one in IN_ATTENTION:
                modules[f"{side}.blocks.*.{part}.{one}"] = f"{side}.layers.*.{part}.{one}"
    return Names(modules=modules)


def weights():
    biases = {
        f"{side}.layers.*.{part}.{one}.bias": "the port has none"
        for side, parts in (("encoder", ["attention"]), ("decoder", ["attention", "cross"]))
        for part in parts
        for one in IN_ATTENTION
    }
    extra = {f"encoder.last.{name}": "the reference has no such norm" for name in ("gamma", "beta")}
    return Weights(reference_only=biases, port_only=extra)


def test_seven_published_mistakes_in_a_large_port_are_all_named_in_time():
    torch.manual_seed(0)
    reference = vary(Model().eval())
    assert len(list(reference.modules())) > 150
    rng = np.random.default_rng(0)
    mask = np.ones((2, 44, 52), bool)
    mask[1, 30:], mask[0, :, 40:] = False, False
    inputs = (rng.normal(size=(2, 3, 44, 52)).astype(np.float32), mask)
    start = time.process_time()
    pair = Pair(reference, PortModel, inputs, names=names(), weights=weights())
    result = audit(pair, executions=(), search="150s", quiet=True)
    spent = time.process_time() - start
    causes = {}
    for one in result.localisations:
        causes.setdefault(one.path, (one.cause or "none").rpartition(": ")[2])
    norms = [path for path in causes if ".norm" in path]
    attention = [path for path in causes if path.rpartition(".")[2] in IN_ATTENTION]
    assert len(norms) == 2 * DEEP + 3 * LAST >= 50
    assert {causes.pop(path) for path in norms} == {"epsilon 0.001 instead of 1e-05"}
    assert len(attention) == 4 * (DEEP + 2 * LAST)
    assert {causes.pop(path) for path in attention} == {"without its bias"}
    assert causes.pop("stem").startswith("SAME padding")
    assert causes.pop("neck") == "nearest (pixel centres) resize instead of upsample_nearest2d"
    assert "layer norm" in causes.pop("encoder")
    assert causes.pop("embed") == "the port's tensor is True everywhere"
    assert "coarse:output" in causes.pop("model")
    assert causes == {}
    told = alike(result.localisations)
    assert (
        f"{len(norms)} \N{MULTIPLICATION SIGN} epsilon 0.001 instead of 1e-05, at"
        in told[0] + told[1]
    )
    assert spent < 180
