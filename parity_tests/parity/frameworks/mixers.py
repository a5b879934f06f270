"""The Mixer of docs/port_your_model.md in each framework, with switches that plant faults.

Run as a program, `python -m parity_tests.parity.frameworks.mixers KIND FAULT...`, it audits one
kind beside PyTorch and prints what was found of each fault, a line of JSON each: every backend of
Keras needs a process of its own.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import parity
from parity.frameworks.torch.weights import vary

KINDS = ("tf_keras", "keras tensorflow", "keras jax", "keras torch", "nnx", "linen", "torch")
CLEAN = "none"
IMAGES = np.random.default_rng(0).normal(size=(2, 3, 24, 32)).astype(np.float32)
LABELS = np.array([1, 3])
RATE, MOMENTUM = 0.125, 0.875  # in float32 as they are: Keras rounds its momentum to that
TOKENS, WIDTH, DEPTH, CLASSES = 12, 24, 2, 5
FORWARD = {  # fault to the modules of the reference where it is found
    "epsilon": ["blocks.1.norm1"],
    "approximate gelu": ["blocks.0.tokens"],
    "kernel off by 1e-6": ["blocks.1.channels.fc2"],
    "no residual": ["blocks.0"],
    "bias lost": ["stem"],
    "sum for mean": ["model"],
    "offset subtracted": ["model"],
    "norms exchanged": ["blocks.0.norm1", "blocks.0.norm2"],
    "kernel rounded": ["blocks.0.tokens.fc1"],
}
TRAINING = {  # fault to the claim that fails, and what its place begins with
    "stopped gradient": ("train_gradients", "blocks.1"),
    "sum of losses": ("train_losses_alone", "loss"),
    "half the rate": ("train_schedule", "schedule"),
}
UNASKED = {"half the rate": ("train_update", "optimizer")}  # Optax cannot be asked for its rate
NAMES = {  # the ports' paths to the reference's
    "patches": "stem",
    "mixers.*": "blocks.*",
    "mixers.*.token_norm": "blocks.*.norm1",
    "mixers.*.channel_norm": "blocks.*.norm2",
    "mixers.*.mix_tokens": "blocks.*.tokens",
    "mixers.*.mix_channels": "blocks.*.channels",
    "mixers.*.mix_tokens.inner": "blocks.*.tokens.fc1",
    "mixers.*.mix_tokens.outer": "blocks.*.tokens.fc2",
    "mixers.*.mix_channels.inner": "blocks.*.channels.fc1",
    "mixers.*.mix_channels.outer": "blocks.*.channels.fc2",
    "classifier": "head",
}


@dataclass(frozen=True)
class Planted:
    """What a fault changes in the code of a Mixer, whatever framework it is in."""

    fault: str = CLEAN

    def epsilon(self, block: int, norm: str) -> float:
        return 1e-3 if self.fault == "epsilon" and (block, norm) == (1, "token") else 1e-6

    def approximate(self, block: int, mixed: str) -> bool:
        return self.fault == "approximate gelu" and (block, mixed) == (0, "tokens")

    def activation(self, x: Any, erf: Callable, tanh: Callable, approximate: bool) -> Any:
        """GELU; written out, since that of TensorFlow has a constant in float32."""
        if approximate:
            return 0.5 * x * (1.0 + tanh((2.0 / np.pi) ** 0.5 * (x + 0.044715 * x * x * x)))
        return 0.5 * x * (1.0 + erf(x * 0.5**0.5))

    def residual(self, block: int, x: Any, y: Any, stopped: Callable) -> Any:
        if self.fault == "no residual" and block == 0:
            return y
        return (stopped(x) if self.fault == "stopped gradient" and block == 1 else x) + y

    def pooled(self, x: Any, mean: Callable, total: Callable) -> Any:
        return total(x) if self.fault == "sum for mean" else mean(x)

    def moved(self, x: Any, offset: Any) -> Any:
        return x - offset if self.fault == "offset subtracted" else x + offset

    def weights(self, variables: dict[str, Any]) -> None:
        """Changes variables of a port that has the reference's weights; paths end alike."""

        def found(end: str) -> Any:
            names = {"kernel": "weight", "gamma": "weight", "scale": "weight"}
            (one,) = (
                one
                for path, one in variables.items()
                if ".".join(
                    [*path.split(".")[:-1], names.get(path.split(".")[-1], path.split(".")[-1])]
                )
                .replace("mixers_", "mixers.")
                .endswith(end)
            )
            return one

        if self.fault == "kernel off by 1e-6":
            one = found("mixers.1.mix_channels.outer.weight")
            one.assign(one.read() * (1 + 1e-6))
        elif self.fault == "bias lost":
            one = found("patches.bias")
            one.assign(np.zeros(one.shape))
        elif self.fault == "norms exchanged":
            both = [found(f"mixers.0.{name}_norm.weight") for name in ("token", "channel")]
            values = [np.array(one.read()) for one in both]
            for one, value in zip(both, values[::-1], strict=True):
                one.assign(value)
        elif self.fault == "kernel rounded":
            one = found("mixers.0.mix_tokens.inner.weight")
            one.assign(np.array(one.read()).astype(np.float16).astype(np.float64))

    def loss(self, losses: Any, mean: Callable, total: Callable) -> Any:
        return total(losses) if self.fault == "sum of losses" else mean(losses)

    @property
    def rate(self) -> float:
        return RATE / 2 if self.fault == "half the rate" else RATE


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Any) -> Any:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.tokens = nn.LayerNorm(width, eps=1e-6), Mlp(tokens, 16)
        self.norm2, self.channels = nn.LayerNorm(width, eps=1e-6), Mlp(width, 32)

    def forward(self, x: Any) -> Any:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """The reference."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 8, 8)
        self.blocks = nn.ModuleList(Block(TOKENS, WIDTH) for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, CLASSES)
        self.bias = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, images: Any) -> Any:
        x = self.stem(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return {"logits": self.head(x.mean(1)) + self.bias}


def reference() -> Mixer:
    torch.manual_seed(0)
    return vary(Mixer().eval())


def torch_port(planted: Planted) -> tuple[Callable, Callable, Callable]:
    class PortMlp(nn.Module):
        def __init__(self, width: int, hidden: int, approximate: bool) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)
            self.approximate = approximate

        def forward(self, x: Any) -> Any:
            x = self.inner(x)
            return self.outer(planted.activation(x, torch.erf, torch.tanh, self.approximate))

    class PortBlock(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number
            self.token_norm = nn.LayerNorm(WIDTH, planted.epsilon(number, "token"))
            self.channel_norm = nn.LayerNorm(WIDTH, planted.epsilon(number, "channel"))
            self.mix_tokens = PortMlp(TOKENS, 16, planted.approximate(number, "tokens"))
            self.mix_channels = PortMlp(WIDTH, 32, planted.approximate(number, "channels"))

        def forward(self, x: Any) -> Any:
            x = x + self.mix_tokens(self.token_norm(x).transpose(1, 2)).transpose(1, 2)
            y = self.mix_channels(self.channel_norm(x))
            return planted.residual(self.number, x, y, torch.detach)

    class PortMixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, WIDTH, 8, 8)
            self.mixers = nn.ModuleList(PortBlock(number) for number in range(DEPTH))
            self.classifier = nn.Linear(WIDTH, CLASSES)
            self.offset = nn.Parameter(torch.zeros(CLASSES))

        def forward(self, images: Any) -> Any:
            x = self.patches(images).flatten(2).transpose(1, 2)
            for mixer in self.mixers:
                x = mixer(x)
            x = planted.pooled(x, lambda x: x.mean(1), lambda x: x.sum(1))
            return planted.moved(self.classifier(x), self.offset)

    def loss(logits: Any, labels: Any) -> Any:
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        return planted.loss(losses, torch.mean, torch.sum)

    def optimizer(parameters: Any) -> Any:
        kept = [parameter for _, parameter in parameters]
        return torch.optim.SGD(kept, planted.rate, momentum=MOMENTUM)

    return lambda: PortMixer().eval(), loss, optimizer


def keras_port(planted: Planted, keras: Any, ops: Any) -> tuple[Callable, Callable, Callable]:
    """In either Keras; `ops` has the functions that are not the same."""
    layers = keras.layers

    class PortMlp(layers.Layer):
        def __init__(self, width: int, hidden: int, approximate: bool) -> None:
            super().__init__()
            self.inner, self.outer = layers.Dense(hidden), layers.Dense(width)
            self.approximate = approximate

        def call(self, x: Any) -> Any:
            x = self.inner(x)
            return self.outer(planted.activation(x, ops.erf, ops.tanh, self.approximate))

    class PortBlock(layers.Layer):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number
            self.token_norm, self.channel_norm = (
                layers.LayerNormalization(epsilon=planted.epsilon(number, name))
                for name in ("token", "channel")
            )
            self.mix_tokens = PortMlp(TOKENS, 16, planted.approximate(number, "tokens"))
            self.mix_channels = PortMlp(WIDTH, 32, planted.approximate(number, "channels"))

        def call(self, x: Any) -> Any:
            y = self.mix_tokens(ops.transpose(self.token_norm(x), [0, 2, 1]))
            x = x + ops.transpose(y, [0, 2, 1])
            y = self.mix_channels(self.channel_norm(x))
            return planted.residual(self.number, x, y, ops.stop_gradient)

    class PortMixer(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.patches = layers.Conv2D(WIDTH, 8, 8)
            self.mixers = [PortBlock(number) for number in range(DEPTH)]
            self.classifier = layers.Dense(CLASSES)
            self.offset = self.add_weight(name="offset", shape=(CLASSES,), initializer="zeros")

        def call(self, x: Any) -> Any:
            x = self.patches(x)
            x = ops.reshape(x, [x.shape[0], TOKENS, WIDTH])
            for mixer in self.mixers:
                x = mixer(x)
            x = planted.pooled(x, lambda x: ops.mean(x, 1), lambda x: ops.sum(x, 1))
            return planted.moved(self.classifier(x), self.offset)

    def loss(logits: Any, labels: Any) -> Any:
        losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        return planted.loss(losses, ops.mean, ops.sum)

    def optimizer(model: Any) -> Any:
        return keras.optimizers.SGD(planted.rate, momentum=MOMENTUM)

    return PortMixer, loss, optimizer


class TensorFlowOps:
    """The functions of TensorFlow as `keras.ops` calls them."""

    def __getattr__(self, name: str) -> Any:
        import tensorflow as tf

        places = {"erf": tf.math, "tanh": tf.math}
        names = {"mean": "reduce_mean", "sum": "reduce_sum"}
        return getattr(places.get(name, tf), names.get(name, name))


def nnx_port(planted: Planted) -> tuple[Callable, Callable, Callable]:
    import jax.numpy as jnp
    from flax import nnx
    from jax import lax

    class PortMlp(nnx.Module):
        def __init__(self, width: int, hidden: int, approximate: bool, rngs: Any) -> None:
            self.inner = nnx.Linear(width, hidden, rngs=rngs)
            self.outer = nnx.Linear(hidden, width, rngs=rngs)
            self.approximate = approximate

        def __call__(self, x: Any) -> Any:
            x = self.inner(x)
            return self.outer(planted.activation(x, lax.erf, jnp.tanh, self.approximate))

    class PortBlock(nnx.Module):
        def __init__(self, number: int, rngs: Any) -> None:
            self.number = number
            self.token_norm, self.channel_norm = (
                nnx.LayerNorm(WIDTH, epsilon=planted.epsilon(number, name), rngs=rngs)
                for name in ("token", "channel")
            )
            self.mix_tokens = PortMlp(TOKENS, 16, planted.approximate(number, "tokens"), rngs)
            self.mix_channels = PortMlp(WIDTH, 32, planted.approximate(number, "channels"), rngs)

        def __call__(self, x: Any) -> Any:
            x = x + self.mix_tokens(self.token_norm(x).swapaxes(1, 2)).swapaxes(1, 2)
            y = self.mix_channels(self.channel_norm(x))
            return planted.residual(self.number, x, y, lax.stop_gradient)

    class PortMixer(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.patches = nnx.Conv(3, WIDTH, (8, 8), (8, 8), padding="VALID", rngs=rngs)
            self.mixers = nnx.List([PortBlock(number, rngs) for number in range(DEPTH)])
            self.classifier = nnx.Linear(WIDTH, CLASSES, rngs=rngs)
            self.offset = nnx.Param(jnp.zeros(CLASSES))

        def __call__(self, images: Any) -> Any:
            x = self.patches(images)
            x = x.reshape(x.shape[0], -1, x.shape[-1])
            for mixer in self.mixers:
                x = mixer(x)
            x = planted.pooled(x, lambda x: x.mean(1), lambda x: x.sum(1))
            return planted.moved(self.classifier(x), self.offset[...])

    return PortMixer, *_jax_training(planted)


def linen_port(planted: Planted) -> tuple[Callable, Callable, Callable]:
    import jax
    import jax.numpy as jnp
    from flax import linen
    from jax import lax

    class PortMlp(linen.Module):
        hidden: int
        approximate: bool

        @linen.compact
        def __call__(self, x: Any) -> Any:
            y = linen.Dense(self.hidden, name="inner")(x)
            y = planted.activation(y, lax.erf, jnp.tanh, self.approximate)
            return linen.Dense(x.shape[-1], name="outer")(y)

    class PortBlock(linen.Module):
        number: int

        def setup(self) -> None:
            self.token_norm, self.channel_norm = (
                linen.LayerNorm(epsilon=planted.epsilon(self.number, name))
                for name in ("token", "channel")
            )
            self.mix_tokens = PortMlp(16, planted.approximate(self.number, "tokens"))
            self.mix_channels = PortMlp(32, planted.approximate(self.number, "channels"))

        def __call__(self, x: Any) -> Any:
            x = x + self.mix_tokens(self.token_norm(x).swapaxes(1, 2)).swapaxes(1, 2)
            y = self.mix_channels(self.channel_norm(x))
            return planted.residual(self.number, x, y, lax.stop_gradient)

    class PortMixer(linen.Module):
        def setup(self) -> None:
            self.patches = linen.Conv(WIDTH, (8, 8), (8, 8), padding="VALID")
            self.mixers = [PortBlock(number) for number in range(DEPTH)]
            self.classifier = linen.Dense(CLASSES)
            self.offset = self.param("offset", linen.initializers.zeros, (CLASSES,))

        def __call__(self, images: Any) -> Any:
            x = self.patches(images)
            x = x.reshape(x.shape[0], -1, x.shape[-1])
            for mixer in self.mixers:
                x = mixer(x)
            x = planted.pooled(x, lambda x: x.mean(1), lambda x: x.sum(1))
            return planted.moved(self.classifier(x), self.offset)

    def build() -> Any:
        model = PortMixer()
        return model.bind(model.init(jax.random.key(0), IMAGES.transpose(0, 2, 3, 1)))

    return build, *_jax_training(planted)


def _jax_training(planted: Planted) -> tuple[Callable, Callable]:
    import jax.numpy as jnp
    import optax

    def loss(logits: Any, labels: Any) -> Any:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return planted.loss(losses, jnp.mean, jnp.sum)

    return loss, lambda model: optax.sgd(planted.rate, momentum=MOMENTUM)


def port(kind: str, fault: str) -> tuple[Callable, Callable, Callable]:
    """What builds the port, its loss, and what makes its optimizer."""
    planted = Planted(fault)
    if kind == "torch":
        return torch_port(planted)
    if kind in ("nnx", "linen"):
        return (nnx_port if kind == "nnx" else linen_port)(planted)
    if kind == "tf_keras":
        import tf_keras

        import tf_impl  # noqa: F401  (chooses the Keras of TensorFlow)

        return keras_port(planted, tf_keras, TensorFlowOps())
    import keras

    return keras_port(planted, keras, keras.ops)


def pair(kind: str, fault: str = CLEAN) -> parity.Pair:
    """The reference beside the port of a kind."""
    from parity.frameworks import registry

    build, _, _ = port(kind, fault)
    names = NAMES
    if kind == "linen":
        names = {path.replace("mixers.*", "mixers_*"): theirs for path, theirs in NAMES.items()}

    def plant(model: Any) -> None:
        Planted(fault).weights(registry.of(model).variables(model))

    return parity.Pair(
        reference(),
        build,
        (IMAGES,),
        names=parity.Names(modules=names),
        weights=parity.Weights(variables={"offset": "bias"}),
        after_loading=plant,
    )


def trained_place(kind: str, fault: str) -> tuple[str, str]:
    """Which claim fails with a fault of training, and what its place begins with."""
    return {**TRAINING, **(UNASKED if kind in ("nnx", "linen") else {})}[fault]


def training(kind: str, fault: str = CLEAN) -> parity.Training:
    """How both are trained."""
    _, loss, optimizer = port(kind, fault)

    def theirs(parameters: Any) -> Any:
        return torch.optim.SGD([one for _, one in parameters], RATE, momentum=MOMENTUM)

    return parity.Training(
        (LABELS,),
        lambda outputs, labels: nn.functional.cross_entropy(outputs["logits"], labels),
        loss,
        theirs,
        optimizer,
    )


def outcome(kind: str, fault: str) -> dict[str, Any]:
    """What an audit says of one fault: its verdict, executions, places, causes, failing claims."""
    trains, start = fault in TRAINING or fault == CLEAN, time.process_time()
    found = parity.audit(
        pair(kind, fault),
        executions=None if fault == CLEAN else (),
        isolate=fault == CLEAN,
        training=training(kind, fault) if trains else None,
        quiet=True,
    ).to_json()
    return {
        "verdict": found["verdict"],
        "seconds": sum(found["timings"].values()),
        "processor": time.process_time() - start,
        "executions": list(found["float32"]),
        "places": [one["path"] for one in found["localisations"]],
        "causes": [one["cause"] for one in found["localisations"]],
        "claims": [one["id"] for one in found["claims"]],
        "failing": {
            one["id"]: [one.get("place"), one.get("cause")]
            for one in found["claims"]
            if one["verdict"] != "holds"
        },
    }


if __name__ == "__main__":
    faults = sys.argv[2:] or [CLEAN, *FORWARD, *TRAINING]
    for one in faults:
        print(json.dumps({one: outcome(sys.argv[1], one)}), flush=True)
    os._exit(0)  # what frameworks do at their end takes seconds
