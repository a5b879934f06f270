"""The BERT classifier of `transformers` and one in tf_keras, trained by AdamW with a warm-up.

The port is a small one of its own, as one might write it from the paper (Devlin et al., 2019,
arXiv:1810.04805). With everything mended both train alike.
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
from examples.training.mended import AdamW
from parity.frameworks.torch.weights import vary

layers = tf_keras.layers
WORDS, WIDTH, INNER, HEADS, DEPTH, LONGEST, CLASSES = 30, 16, 24, 2, 2, 12, 4
RATE, DECAY, WARMUP, STEPS, SMOOTHING = 1e-3, 0.01, 4, 20, 0.1
TURNS = (WARMUP,)
MENDED = ("gelu", "optimizer", "schedule")


@dataclass(frozen=True)
class Settings:
    """What of the port is as the reference has it; a fault changes one of the functions."""

    gelu: bool = True
    optimizer: bool = True
    schedule: bool = True
    loss: Callable[..., Any] | None = None
    make: Callable[[Any], Any] | None = None
    port: Callable[["Settings"], Any] | None = None


def reference() -> nn.Module:
    """The model of `transformers`, in eval mode, with weights that show every mistake."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        max_position_embeddings=LONGEST,
        num_labels=CLASSES,
        pad_token_id=None,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    return vary(BertForSequenceClassification(config).eval())


class Attention(layers.Layer):
    """Self-attention, and the dropout of its probabilities."""

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.query, self.key, self.value = (layers.Dense(WIDTH) for _ in range(3))
        self.rate = rate

    def call(self, hidden_states: tf.Tensor, mask: tf.Tensor, training: bool = False) -> tf.Tensor:
        """hidden_states [B,S,C]; mask [B,S], 1 where a word is."""
        batch, length = tf.shape(hidden_states)[0], tf.shape(hidden_states)[1]

        def heads(x: tf.Tensor) -> tf.Tensor:
            split = tf.reshape(x, (batch, length, HEADS, WIDTH // HEADS))
            return tf.transpose(split, (0, 2, 1, 3))

        query, key, value = (
            heads(layer(hidden_states)) for layer in (self.query, self.key, self.value)
        )
        scores = tf.matmul(query, key, transpose_b=True) * (WIDTH // HEADS) ** -0.5
        hidden = (1 - tf.cast(mask[:, None, None], scores.dtype)) * -1e9
        found = tf.nn.softmax(scores + hidden)
        if training:
            found = tf.nn.dropout(found, self.rate)
        mixed = tf.transpose(tf.matmul(found, value), (0, 2, 1, 3))
        return tf.reshape(mixed, (batch, length, WIDTH))


class Block(layers.Layer):
    """Attention and two layers, each with dropout and a norm after the sum."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.attention = Attention()
        self.mixed, self.inner, self.outer = map(layers.Dense, (WIDTH, INNER, WIDTH))
        self.drop_mixed, self.drop_outer = layers.Dropout(0.1), layers.Dropout(0.1)
        self.norm_mixed, self.norm_outer = (norm() for _ in "ab")
        self.gelu = exact_gelu if settings.gelu else tf.nn.gelu

    def call(self, x: tf.Tensor, mask: tf.Tensor, training: bool = False) -> tf.Tensor:
        """As in the paper, norms last."""
        found = self.mixed(self.attention(x, mask, training=training))
        x = self.norm_mixed(x + self.drop_mixed(found, training=training))
        found = self.outer(self.gelu(self.inner(x)))
        return self.norm_outer(x + self.drop_outer(found, training=training))


def norm() -> layers.Layer:
    """With BERT's epsilon."""
    return layers.LayerNormalization(epsilon=1e-12)


def exact_gelu(x: tf.Tensor) -> tf.Tensor:
    """In the precision of its argument; `tf.nn.gelu` has a constant in float32."""
    return 0.5 * x * (1.0 + tf.math.erf(x * 0.5**0.5))


class PortBert(tf_keras.Model):
    """Words and mask int64 [B,S] to logits [B,CLASSES]."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.words, self.places, self.types = (
            layers.Embedding(count, WIDTH) for count in (WORDS, LONGEST, 2)
        )
        self.norm, self.drop = norm(), layers.Dropout(0.1)
        self.blocks = [Block(settings) for _ in range(DEPTH)]
        self.pooler, self.head = layers.Dense(WIDTH), layers.Dense(CLASSES)
        self.last_drop = layers.Dropout(0.1)

    def call(
        self, input_ids: tf.Tensor, attention_mask: tf.Tensor, training: bool = False
    ) -> dict[str, tf.Tensor]:
        """By the first word's features."""
        places = tf.range(tf.shape(input_ids, tf.int64)[1])[None]
        x = self.words(input_ids) + self.types(tf.zeros_like(input_ids)) + self.places(places)
        x = self.drop(self.norm(x), training=training)
        for block in self.blocks:
            x = block(x, attention_mask, training=training)
        pooled = self.last_drop(tf.tanh(self.pooler(x[:, 0])), training=training)
        return {"logits": self.head(pooled)}


NAMES = parity.Names(
    {
        "words": "bert.embeddings.word_embeddings",
        "places": "bert.embeddings.position_embeddings",
        "types": "bert.embeddings.token_type_embeddings",
        "norm": "bert.embeddings.LayerNorm",
        "drop": "bert.embeddings.dropout",
        "blocks.*.attention": "bert.encoder.layer.*.attention.self",
        "blocks.*.attention.query": "bert.encoder.layer.*.attention.self.query",
        "blocks.*.attention.key": "bert.encoder.layer.*.attention.self.key",
        "blocks.*.attention.value": "bert.encoder.layer.*.attention.self.value",
        "blocks.*.mixed": "bert.encoder.layer.*.attention.output.dense",
        "blocks.*.drop_mixed": "bert.encoder.layer.*.attention.output.dropout",
        "blocks.*.norm_mixed": "bert.encoder.layer.*.attention.output.LayerNorm",
        "blocks.*.inner": "bert.encoder.layer.*.intermediate.dense",
        "blocks.*.outer": "bert.encoder.layer.*.output.dense",
        "blocks.*.drop_outer": "bert.encoder.layer.*.output.dropout",
        "blocks.*.norm_outer": "bert.encoder.layer.*.output.LayerNorm",
        "pooler": "bert.pooler.dense",
        "last_drop": "dropout",
        "head": "classifier",
    },
    reference_only={
        "*.self:input.attention_mask": "added to the scores here, a factor there",
        "*.self:output.1": "the port does not return its probabilities",
    },
    port_only={"*.self:input.mask": "added to the scores there, a factor here"},
)


def loss(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Smoothed cross entropy."""
    return nn.functional.cross_entropy(outputs.logits, labels, label_smoothing=SMOOTHING)


def port_loss(
    outputs: dict[str, tf.Tensor], labels: tf.Tensor, smoothing: float = SMOOTHING
) -> tf.Tensor:
    """The same."""
    log = tf.nn.log_softmax(outputs["logits"])
    own = tf.reduce_mean(tf.gather(log, labels, batch_dims=1))
    return -(1 - smoothing) * own - smoothing * tf.reduce_mean(log)


def _decays(name: str) -> bool:
    return not (name.endswith("bias") or "LayerNorm" in name)


def optimizer(parameters: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """AdamW, which decays neither biases nor norms."""
    decayed = [one for name, one in parameters if _decays(name)]
    others = [one for name, one in parameters if not _decays(name)]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, RATE, weight_decay=DECAY)


def factor(step: int) -> float:
    """The rate of an update, in units of the largest: up for some steps, then down to 0."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return max(0.0, (STEPS - step) / (STEPS - WARMUP))


def schedule(made: torch.optim.Optimizer) -> Any:
    """`factor`, as PyTorch's scheduler."""
    return torch.optim.lr_scheduler.LambdaLR(made, factor)


class Linear(tf_keras.optimizers.schedules.LearningRateSchedule):
    """`factor`, as Keras' schedule."""

    def __init__(self, late: int = 0, dtype: str | None = None) -> None:
        self.late, self.dtype = late, dtype

    def __call__(self, step: Any) -> tf.Tensor:
        """The rate of an update."""
        step = tf.cast(step - self.late, self.dtype or tf_keras.backend.floatx())
        up, down = (step + 1) / WARMUP, (STEPS - step) / (STEPS - WARMUP)
        return RATE * tf.where(step < WARMUP, up, tf.maximum(down, 0 * down))

    def get_config(self) -> dict[str, Any]:
        """What makes it again."""
        return {"late": self.late}


def port_optimizer(settings: Settings) -> Callable[[Any], Any]:
    """The port's optimizer, Keras' own or the mended one."""

    def make(model: tf_keras.Model) -> tf_keras.optimizers.Optimizer:
        rate = Linear() if settings.schedule else Linear(dtype="float32")
        if settings.optimizer:
            return AdamW(rate, DECAY, decayed=decays)
        made = tf_keras.optimizers.AdamW(rate, weight_decay=DECAY)
        made.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        return made

    return make


def decays(variable: tf.Variable) -> bool:
    """Whether the port decays a variable."""
    return not any(name in variable.name for name in ("bias", "gamma", "beta"))


def batch() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The models' arguments, and labels."""
    rng = np.random.default_rng(0)
    mask = np.ones((4, 7), np.int64)
    mask[1, 5:] = mask[3, 3:] = 0
    return {"input_ids": rng.integers(0, WORDS, (4, 7)), "attention_mask": mask}, np.array(
        [2, 0, 3, 2]
    )


def pair(settings: Settings = Settings()) -> parity.Pair:
    """Both models."""
    inputs, _ = batch()
    return parity.Pair(
        reference,
        lambda: (settings.port or PortBert)(settings),
        inputs,
        names=NAMES,
        weights=parity.Weights(),
    )


def training(settings: Settings = Settings(), steps: int = STEPS) -> parity.Training:
    """How both are trained."""
    _, labels = batch()
    return parity.Training(
        (labels,),
        loss,
        settings.loss or port_loss,
        optimizer,
        settings.make or port_optimizer(settings),
        steps=steps,
        schedule=schedule,
        turns=TURNS,
    )
