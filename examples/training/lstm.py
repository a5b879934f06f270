"""A small LSTM classifier in PyTorch and in tf_keras, and how both are trained.

Both are built of their library's own layers, which hold their weights differently: PyTorch has two
biases for each direction of the LSTM, Keras their sum. The port is written as Keras suggests.
`MENDED` names what of it differs from the reference when both train; `training` and `pair` take
which of them are mended, and are what `parity audit --pair` takes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
import torch
from torch import nn

import parity
from examples.training.mended import AdamW, BatchNormalization, Piecewise
from parity.frameworks.torch.weights import vary

layers = tf_keras.layers
WORDS, WIDTH, HIDDEN, CLASSES = 23, 12, 10, 5
RATE, DECAY, CLIP, IGNORED = 1e-3, 0.01, 0.5, 4
MENDED = ("batch_norm", "optimizer", "schedule", "biases")
TURNS = (4, 8)


@dataclass(frozen=True)
class Settings:
    """What of the port is as the reference has it; a fault changes one of the functions.

    Keras has one bias where PyTorch adds two, which together learn twice as fast: with `biases`
    the reference's second one is not trained.
    """

    batch_norm: bool = True
    optimizer: bool = True
    schedule: bool = True
    biases: bool = True
    loss: Callable[..., Any] | None = None
    make: Callable[[Any], Any] | None = None
    port: Callable[["Settings"], Any] | None = None


class Classifier(nn.Module):
    """Words int64 [B,S] to logits [B,CLASSES], by the mean of what both directions say."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.drop = nn.Dropout(0.2)
        self.lstm = nn.LSTM(WIDTH, HIDDEN, batch_first=True, bidirectional=True)
        self.norm = nn.BatchNorm1d(2 * HIDDEN)
        self.hidden = nn.Linear(2 * HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x, _ = self.lstm(self.drop(self.embedding(words)))
        return self.head(torch.tanh(self.hidden(self.norm(x.mean(1)))))


class PortClassifier(tf_keras.Model):
    """The same in tf_keras."""

    def __init__(self, settings: Settings, rate: float = 0.2) -> None:
        super().__init__()
        self.embedding = layers.Embedding(WORDS, WIDTH)
        self.drop = layers.Dropout(rate)
        self.lstm = layers.Bidirectional(layers.LSTM(HIDDEN, return_sequences=True))
        norm = BatchNormalization if settings.batch_norm else layers.BatchNormalization
        self.norm = norm(momentum=0.9, epsilon=1e-5)
        self.hidden = layers.Dense(HIDDEN)
        self.head = layers.Dense(CLASSES)

    def call(self, words: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = self.lstm(self.drop(self.embedding(words), training=training))
        x = self.norm(tf.reduce_mean(x, 1), training=training)
        return self.head(tf.tanh(self.hidden(x)))


def reference(settings: Settings) -> Classifier:
    """The reference, in eval mode, with weights that show every mistake."""
    torch.manual_seed(0)
    model = vary(Classifier().eval())
    for name, one in model.lstm.named_parameters():
        if "bias_hh" in name:
            one.requires_grad_(not settings.biases)
    return model


def loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> dict[str, Any]:
    """Cross entropy by weighted classes, one of which is ignored, and a penalty on large logits."""
    entropy = nn.functional.cross_entropy(
        logits, labels, weights, ignore_index=IGNORED, label_smoothing=0.1
    )
    return {"entropy": entropy, "size": 0.01 * logits.square().mean()}


def port_loss(logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> dict[str, Any]:
    """The same; PyTorch's smoothed classes are weighted one by one."""
    return {
        "entropy": entropy(logits, labels, weights),
        "size": 0.01 * tf.reduce_mean(logits**2),
    }


def entropy(
    logits: tf.Tensor,
    labels: tf.Tensor,
    weights: tf.Tensor,
    smoothing: float = 0.1,
    ignored: int = IGNORED,
) -> tf.Tensor:
    """PyTorch's weighted, smoothed cross entropy with an ignored class."""
    kept = tf.cast(labels != ignored, logits.dtype)
    log = tf.nn.log_softmax(logits) * weights
    own = tf.gather(log, labels, batch_dims=1)
    total = tf.reduce_sum(tf.gather(weights, labels) * kept)
    plain = -tf.reduce_sum(own * kept) / total
    spread = -tf.reduce_sum(tf.reduce_mean(log, -1) * kept) / total
    return (1 - smoothing) * plain + smoothing * spread


def optimizer(parameters: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """AdamW with gradients clipped by one norm, which decays matrices alone."""
    decayed = [one for name, one in parameters if one.ndim > 1]
    others = [one for name, one in parameters if one.ndim < 2]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    made = torch.optim.AdamW(groups, RATE, weight_decay=DECAY)

    def clip(*given: Any) -> None:
        nn.utils.clip_grad_norm_([*decayed, *others], CLIP)

    made.register_step_pre_hook(clip)
    return made


def port_optimizer(settings: Settings) -> Callable[[Any], Any]:
    """The port's optimizer, Keras' own or the mended one."""

    def make(model: tf_keras.Model) -> tf_keras.optimizers.Optimizer:
        boundaries, values = list(TURNS), [RATE, RATE / 10, RATE / 100]
        schedule = Piecewise if settings.schedule else _Keras
        rate = schedule(boundaries, values)
        if settings.optimizer:
            return AdamW(rate, DECAY, clip=CLIP, decayed=lambda one: one.shape.rank > 1)
        made = tf_keras.optimizers.AdamW(
            rate, weight_decay=DECAY, epsilon=1e-8, global_clipnorm=CLIP
        )
        made.exclude_from_weight_decay(
            [one for one in model.trainable_variables if one.shape.rank < 2]
        )
        return made

    return make


class _Keras(tf_keras.optimizers.schedules.PiecewiseConstantDecay):
    """Keras' own: a boundary is the last step of its piece."""

    def __init__(self, boundaries: list[int], values: list[float]) -> None:
        super().__init__(boundaries, values)


def schedule(made: torch.optim.Optimizer) -> Any:
    """Two milestones."""
    return torch.optim.lr_scheduler.MultiStepLR(made, list(TURNS), 0.1)


NAMES = parity.Names(
    modules={name: name for name in ("embedding", "drop", "lstm", "norm", "hidden", "head")},
    tensors={"lstm:output": "0"},
    reference_only={"lstm:output.1.*": "Keras returns the sequence alone"},
)


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words, labels, weights of classes."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, WORDS, (8, 7))
    labels = np.array([0, 1, 2, 3, 4, 1, 0, 2])
    return words, labels, np.array([1.0, 0.5, 2.0, 1.5, 1.0], np.float32)


def pair(settings: Settings = Settings()) -> parity.Pair:
    """Both models."""
    words, _, _ = batch()
    return parity.Pair(
        lambda: reference(settings),
        lambda: (settings.port or PortClassifier)(settings),
        (words,),
        names=NAMES,
        weights=parity.Weights(),
    )


def training(settings: Settings = Settings(), steps: int = 3) -> parity.Training:
    """How both are trained."""
    _, labels, weights = batch()
    return parity.Training(
        (labels, weights),
        loss,
        settings.loss or port_loss,
        optimizer,
        settings.make or port_optimizer(settings),
        steps=steps,
        schedule=schedule,
        turns=TURNS,
        decisions=lambda logits, *targets: logits.argmax(-1),
    )
