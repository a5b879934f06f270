"""Mistakes in the training of the pairs of `examples/training`, where each is, and its cause."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

import parity
from examples.training import bert, lstm
from examples.training.mended import AdamW, BatchNormalization, Piecewise


@dataclass(frozen=True)
class Planted:
    """One mistake of a port.

    Args:
        id: what it is.
        example: the module of the pair.
        settings: what of the port is changed.
        place: a part of the place that must be named.
        cause: a part of the cause.
        change: changes the pair besides.
    """

    id: str
    example: Any
    settings: Any
    place: str
    cause: str
    change: Callable[[parity.Pair], parity.Pair] = lambda pair: pair

    def audit(self) -> Any:
        """What the engine says, in float64."""
        return parity.audit(
            self.change(self.example.pair(self.settings)),
            training=self.example.training(self.settings, steps=1),
            executions=(),
            quiet=True,
        )


@dataclass(frozen=True)
class Found:
    """Whether a mistake is noticed, its place named exactly, and its cause."""

    detected: bool
    placed: bool
    explained: bool
    text: str


def judged(planted: Planted) -> Found:
    """What the result of one audit says of a mistake."""
    result = planted.audit().to_json()
    failed = [one for one in result["claims"] if one["verdict"] == "fails"]
    own = [one for one in failed if one.get("place") and not one["inherited"]]
    places = [one["place"] for one in own] + [one["path"] for one in result["localisations"]]
    causes = [cause for one in failed for cause in one.get("causes", [one.get("cause")]) if cause]
    causes += [one["cause"] for one in result["localisations"] if one["cause"]]
    placed = bool(places) and planted.place in places[0]
    explained = any(planted.cause in cause for cause in causes)
    return Found(bool(failed), placed, explained, f"{places[:2]} {causes[:2]}")


def _loss(change: Callable[..., Any]) -> lstm.Settings:
    """The LSTM with another entropy of (logits, labels, weights)."""

    def loss(logits: Any, labels: Any, weights: Any) -> dict[str, Any]:
        size = 0.01 * tf.reduce_mean(logits**2)
        return {"entropy": change(logits, labels, weights), "size": size}

    return lstm.Settings(loss=loss)


def _whole(change: Callable[..., Any]) -> lstm.Settings:
    """The LSTM with a loss that is changed as a whole."""
    return lstm.Settings(loss=lambda *given: change(*given))


def _summed(logits: Any, labels: Any, weights: Any) -> Any:
    kept = tf.cast(labels != lstm.IGNORED, logits.dtype)
    return lstm.entropy(logits, labels, weights) * tf.reduce_sum(tf.gather(weights, labels) * kept)


def _plain_mean(logits: Any, labels: Any, weights: Any) -> Any:
    kept = tf.cast(labels != lstm.IGNORED, logits.dtype)
    return _summed(logits, labels, weights) / tf.reduce_sum(kept)


def _over_all(logits: Any, labels: Any, weights: Any) -> Any:
    kept = tf.cast(labels != lstm.IGNORED, logits.dtype)
    return lstm.entropy(logits, labels, weights) * tf.reduce_mean(kept)


@tf.custom_gradient
def _doubled(x: Any) -> Any:
    return tf.identity(x), lambda upstream: 2.0 * upstream


def _size(of: Callable[[Any], Any]) -> lstm.Settings:
    return _whole(
        lambda logits, labels, weights: {
            "entropy": lstm.entropy(logits, labels, weights),
            "size": of(logits),
        }
    )


class Rule(AdamW):
    """The mended AdamW with one mistake, by its name."""

    def __init__(self, mistake: str, rate: Any, decay: float, **how: Any) -> None:
        super().__init__(rate, decay, **how)
        self.mistake = mistake

    def _clip_gradients(self, gradients: Any) -> Any:
        if self.mistake != "each" or self.clip is None:
            return super()._clip_gradients(gradients)
        norms = [tf.norm(one) for one in gradients]
        return [
            one * tf.minimum(self.clip / (norm + 1e-6), tf.ones_like(norm))
            for one, norm in zip(gradients, norms, strict=True)
        ]

    def update_step(self, gradient: Any, variable: Any) -> None:
        """One update, with the mistake."""
        dtype, place = variable.dtype, self._index_dict[self._var_key(variable)]
        rate, mistake = tf.cast(self.learning_rate, dtype), self.mistake
        if mistake == "head" and "dense_1" in variable.name:
            rate = 10 * rate
        count = tf.cast(self.iterations + 1, dtype)
        if mistake == "late":
            count += 1
        gradient = tf.convert_to_tensor(gradient)
        decay = self.decay if self.decayed(variable) else 0.0
        if mistake == "coupled":
            gradient, decay = gradient + decay * variable, 0.0
        first, second = self.first[place], self.second[place]
        first.assign(self.betas[0] * first + (1 - self.betas[0]) * gradient)
        second.assign(self.betas[1] * second + (1 - self.betas[1]) * gradient**2)
        one, two = (1 - tf.constant(beta, dtype) ** count for beta in self.betas)
        if mistake == "uncorrected":
            one = two = tf.ones_like(one)
        size = tf.sqrt(second) / tf.sqrt(two) + self.epsilon
        if mistake == "hat":
            size = (tf.sqrt(second) + self.epsilon) / tf.sqrt(two)
        if mistake == "root":
            size = tf.sqrt(second / two + self.epsilon)
        times = 2 if mistake == "twice" else 1
        share = decay if mistake == "unscaled" else rate * decay
        for _ in range(times):
            variable.assign(variable * (1 - share) - rate * first / one / size)


def _rule(mistake: str = "", **how: Any) -> lstm.Settings:
    """The LSTM whose optimizer makes a mistake, or has other settings."""
    settings = {"clip": lstm.CLIP, "decayed": lambda one: one.shape.rank > 1, **how}

    def make(model: Any) -> Any:
        values = [lstm.RATE, lstm.RATE / 10, lstm.RATE / 100]
        decay = settings.get("decay", lstm.DECAY)
        others = {name: one for name, one in settings.items() if name != "decay"}
        return Rule(mistake, Piecewise(lstm.TURNS, values), decay, **others)

    return lstm.Settings(make=make)


def _schedule(rate: Any) -> lstm.Settings:
    def make(model: Any) -> Any:
        return AdamW(rate, lstm.DECAY, clip=lstm.CLIP, decayed=lambda one: one.shape.rank > 1)

    return lstm.Settings(make=make)


def _port(change: type) -> lstm.Settings:
    return lstm.Settings(port=change)


def _statistics(**how: Any) -> lstm.Settings:
    def port(settings: Any) -> Any:
        model = lstm.PortClassifier(settings)
        model.norm = BatchNormalization(**{"momentum": 0.9, "epsilon": 1e-5, **how})
        return model

    return lstm.Settings(port=port)


class Evaluated(lstm.PortClassifier):
    """The norm is not told that the model trains."""

    def call(self, words: Any, training: bool = False) -> Any:
        x = self.lstm(self.drop(self.embedding(words), training=training))
        x = self.norm(tf.reduce_mean(x, 1), training=False)
        return self.head(tf.tanh(self.hidden(x)))


class Undropped(lstm.PortClassifier):
    """Without dropout."""

    def call(self, words: Any, training: bool = False) -> Any:
        x = self.lstm(self.embedding(words))
        x = self.norm(tf.reduce_mean(x, 1), training=training)
        return self.head(tf.tanh(self.hidden(x)))


class DroppedLate(lstm.PortClassifier):
    """Dropout after the LSTM."""

    def call(self, words: Any, training: bool = False) -> Any:
        x = self.drop(self.lstm(self.embedding(words)), training=training)
        x = self.norm(tf.reduce_mean(x, 1), training=training)
        return self.head(tf.tanh(self.hidden(x)))


class Stopped(lstm.PortClassifier):
    """The gradient ends before the hidden layer."""

    def call(self, words: Any, training: bool = False) -> Any:
        x = self.lstm(self.drop(self.embedding(words), training=training))
        x = self.norm(tf.reduce_mean(x, 1), training=training)
        return self.head(tf.tanh(self.hidden(tf.stop_gradient(x))))


class Twice(tf_keras.layers.Dense):
    """Passes twice its gradient back."""

    def call(self, x: Any) -> Any:
        return super().call(_doubled(x))


class PassedTwice(lstm.PortClassifier):
    """One layer passes twice its gradient back."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.hidden = Twice(lstm.HIDDEN)


def _gates(pair: parity.Pair) -> parity.Pair:
    """The first two gates of one direction are exchanged in what the port is given."""

    def exchange(model: Any) -> None:
        kernel = model.lstm.forward_layer.cell.kernel
        first, second, *others = np.split(kernel.numpy(), 4, axis=1)
        kernel.assign(np.concatenate([second, first, *others], 1))

    return replace(pair, after_loading=exchange)


class Undropped2(bert.Attention):
    """Without dropout of the probabilities."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def call(self, hidden_states: Any, mask: Any, training: bool = False) -> Any:
        return super().call(hidden_states, mask, training=False)


def _bert(change: Callable[[Any], None]) -> bert.Settings:
    def port(settings: Any) -> Any:
        model = bert.PortBert(settings)
        change(model)
        return model

    return bert.Settings(port=port)


def _without_attention_dropout(model: Any) -> None:
    model.blocks[1].attention = Undropped2()


def _tanh_gelu(model: Any) -> None:
    model.blocks[0].gelu = lambda x: (
        0.5 * x * (1 + tf.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
    )


def _norm_epsilon(model: Any) -> None:
    model.blocks[0].norm_outer = tf_keras.layers.LayerNormalization(epsilon=1e-3)


def _half_dropped(model: Any) -> None:
    model.blocks[0].drop_outer = tf_keras.layers.Dropout(0.05)


def _bert_optimizer(rate: Any = None, decay: float = bert.DECAY, **how: Any) -> bert.Settings:
    settings = {"decayed": bert.decays, **how}
    return bert.Settings(make=lambda model: AdamW(rate or bert.Linear(), decay, **settings))


ENTROPY = lstm.entropy
HALF = (lstm.RATE, lstm.RATE / 2, lstm.RATE / 4)
TENTHS = (lstm.RATE, lstm.RATE / 10, lstm.RATE / 100)

PLANTED = (
    Planted("sum", lstm, _loss(_summed), "loss", "sum instead of a mean"),
    Planted("plain-mean", lstm, _loss(_plain_mean), "loss", "plain mean"),
    Planted("mean-over-ignored", lstm, _loss(_over_all), "loss", "ignored elements too"),
    Planted(
        "no-smoothing",
        lstm,
        _loss(lambda *given: ENTROPY(*given, smoothing=0.0)),
        "loss",
        "label smoothing is 0 instead of 0.1",
    ),
    Planted(
        "smoothing-0.07",
        lstm,
        _loss(lambda *given: ENTROPY(*given, smoothing=0.07)),
        "loss",
        "label_smoothing is 0.07",
    ),
    Planted(
        "nothing-ignored",
        lstm,
        _loss(lambda *given: ENTROPY(*given, ignored=-100)),
        "loss",
        "nothing is ignored",
    ),
    Planted(
        "another-ignored",
        lstm,
        _loss(lambda *given: ENTROPY(*given, ignored=2)),
        "loss",
        "class 2 is ignored",
    ),
    Planted(
        "no-class-weights",
        lstm,
        _loss(lambda logits, labels, weights: ENTROPY(logits, labels, tf.ones_like(weights))),
        "loss",
        "without",
    ),
    Planted(
        "one-class-weight",
        lstm,
        _loss(
            lambda logits, labels, weights: ENTROPY(
                logits, labels, weights * tf.constant([1, 1, 1, 1.7, 1], weights.dtype)
            )
        ),
        "loss",
        "class 3 weighs 2.55 instead of 1.5",
    ),
    Planted(
        "weights-rolled",
        lstm,
        _loss(lambda logits, labels, weights: ENTROPY(logits, labels, tf.roll(weights, 1, 0))),
        "loss",
        "rolled by 1",
    ),
    Planted(
        "classes-rolled",
        lstm,
        _loss(lambda logits, labels, weights: ENTROPY(logits, (labels + 1) % 5, weights)),
        "loss",
        "class order is rolled by 1",
    ),
    Planted(
        "labels-shifted",
        lstm,
        _loss(lambda logits, labels, weights: ENTROPY(logits, tf.roll(labels, 1, 0), weights)),
        "loss",
        "example before",
    ),
    Planted(
        "gradient-doubled",
        lstm,
        _whole(lambda logits, *rest: lstm.port_loss(_doubled(logits), *rest)),
        "loss",
        "gradient is doubled",
    ),
    Planted(
        "penalty-stopped",
        lstm,
        _size(lambda logits: 0.01 * tf.reduce_mean(tf.stop_gradient(logits) ** 2)),
        "loss",
        "stopped",
    ),
    Planted(
        "penalty-tenfold",
        lstm,
        _size(lambda logits: 0.1 * tf.reduce_mean(logits**2)),
        "loss",
        "0.1",
    ),
    Planted(
        "penalty-summed",
        lstm,
        _size(lambda logits: 0.01 * tf.reduce_sum(logits**2)),
        "loss",
        "a sum instead of a mean",
    ),
    Planted("epsilon", lstm, _rule(epsilon=1e-7), "optimizer", "epsilon is 1e-07"),
    Planted("epsilon-hat", lstm, _rule("hat"), "optimizer", "before the bias correction"),
    Planted("epsilon-root", lstm, _rule("root"), "optimizer", "under the root"),
    Planted("uncorrected", lstm, _rule("uncorrected"), "optimizer", "not corrected"),
    Planted("counted-late", lstm, _rule("late"), "optimizer", "counts from 2"),
    Planted("coupled", lstm, _rule("coupled"), "optimizer", "added to the gradient"),
    Planted("decay-unscaled", lstm, _rule("unscaled"), "optimizer", "not multiplied by the rate"),
    Planted(
        "decay-everywhere",
        lstm,
        _rule(decayed=lambda one: True),
        "optimizer",
        "what should not decay is decayed too",
    ),
    Planted("no-decay", lstm, _rule(decay=0.0), "optimizer", "nothing is decayed"),
    Planted(
        "embedding-not-decayed",
        lstm,
        _rule(decayed=lambda one: one.shape.rank > 1 and "embedding" not in one.name),
        "optimizer",
        "embedding.weight decay by 0 instead of 0.01",
    ),
    Planted("beta-2", lstm, _rule(betas=(0.9, 0.99)), "optimizer", "beta_2 is 0.99"),
    Planted("beta-1", lstm, _rule(betas=(0.8, 0.999)), "optimizer", "beta_1 is 0.8"),
    Planted("no-clip", lstm, _rule(clip=None), "optimizer", "not clipped"),
    Planted("clip-5", lstm, _rule(clip=5.0), "optimizer", "clipped to 5 instead of 0.5"),
    Planted("clip-each", lstm, _rule("each"), "optimizer", "by its own norm"),
    Planted("step-twice", lstm, _rule("twice"), "optimizer", "times as large"),
    Planted("head-rate", lstm, _rule("head"), "optimizer", "is 10 times as large"),
    Planted("constant-rate", lstm, _schedule(lstm.RATE), "schedule", "does not reach"),
    Planted(
        "milestone-late",
        lstm,
        _schedule(Piecewise([5, 9], TENTHS)),
        "schedule",
        "update before",
    ),
    Planted("gamma", lstm, _schedule(Piecewise(lstm.TURNS, HALF)), "schedule", "0.5"),
    Planted("momentum", lstm, _statistics(momentum=0.99), "norm", "momentum 0.01 instead of 0.1"),
    Planted("biased", lstm, _statistics(unbiased=False), "norm", "divided by n instead of n - 1"),
    Planted("norm-evaluated", lstm, _port(Evaluated), "norm", "as in evaluation"),
    Planted("no-dropout", lstm, _port(Undropped), "drop", "dropout is in another place"),
    Planted("dropout-late", lstm, _port(DroppedLate), "model", "dropout is in another place"),
    Planted(
        "dropout-rate",
        lstm,
        lstm.Settings(port=lambda settings: lstm.PortClassifier(settings, 0.1)),
        "drop",
        "keeps 0.9, but should keep 0.8",
    ),
    Planted("gradient-stopped", lstm, _port(Stopped), "model", "stopped"),
    Planted("passed-twice", lstm, _port(PassedTwice), "hidden", "multiplied by 2"),
    Planted("gates-exchanged", lstm, lstm.Settings(), "lstm", "", change=_gates),
    Planted(
        "bert-sum",
        bert,
        bert.Settings(loss=lambda *given: 4.0 * bert.port_loss(*given)),
        "loss",
        "a sum instead of a mean",
    ),
    Planted(
        "bert-smoothing",
        bert,
        bert.Settings(loss=lambda *given: bert.port_loss(*given, smoothing=0.2)),
        "loss",
        "smoothing is 0.2",
    ),
    Planted(
        "bert-attention-undropped",
        bert,
        _bert(_without_attention_dropout),
        "layer.1.attention.self",
        "no dropout",
    ),
    Planted(
        "bert-dropout-rate",
        bert,
        _bert(_half_dropped),
        "layer.0.output.dropout",
        "keeps 0.95, but should keep 0.9",
    ),
    Planted("bert-gelu", bert, _bert(_tanh_gelu), "model", "gelu (tanh)"),
    Planted(
        "bert-norm-epsilon", bert, _bert(_norm_epsilon), "layer.0.output.LayerNorm", "epsilon 0.001"
    ),
    Planted(
        "bert-decay-norms",
        bert,
        _bert_optimizer(decayed=lambda one: "bias" not in one.name),
        "optimizer",
        "decay by 0.01 instead of 0",
    ),
    Planted(
        "bert-warmup-late", bert, _bert_optimizer(bert.Linear(late=1)), "schedule", "update before"
    ),
    Planted("bert-constant", bert, _bert_optimizer(bert.RATE), "schedule", ""),
    Planted("bert-epsilon", bert, _bert_optimizer(epsilon=1e-6), "optimizer", "epsilon is 1e-06"),
)
