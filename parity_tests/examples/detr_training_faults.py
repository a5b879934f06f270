"""Mistakes in the training of the two DETRs of `examples/training`, where each is, its cause."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import tensorflow as tf
from official.projects.detr.tasks import detection

import parity
from examples.detr import models
from examples.training import detr
from examples.training.mended import AdamW, Piecewise
from parity_tests.examples.training_faults import Planted

ENCODER, DECODER = "model.encoder.layers.0", "model.decoder.layers.1"


def _task(loss: Mapping[str, float] = {}, cost: Mapping[str, float] = {}) -> detr.Settings:
    """Other numbers of the loss, and of the costs of its matching."""

    def make(config: Any) -> Any:
        made, matching = (
            detection.DetectionTask(config.replace(losses=dict(how))) for how in (loss, cost)
        )
        made._compute_cost = matching._compute_cost
        return made

    return detr.Settings(task=make)


def _terms(change: Callable[[str, Any], Any]) -> detr.Settings:
    """Each term of the loss by its name changed; None leaves it out."""
    own = detr.port_loss(detr.Settings())

    def loss(*given: Any) -> dict[str, Any]:
        found = {name: change(name, term) for name, term in own(*given).items()}
        return {name: term for name, term in found.items() if term is not None}

    return detr.Settings(loss=loss)


def _optimizer(**how: Any) -> detr.Settings:
    """The mended optimizer with other settings."""
    settings = {"clip": detr.CLIP, "slower": detr.slower, **how}
    turns = settings.pop("turns", detr.TURNS)

    def make(model: Any) -> Any:
        rate = Piecewise(turns, [detr.RATE, detr.RATE / 10])
        return AdamW(rate, detr.DECAY, **settings)

    return detr.Settings(make=make)


def _loaded(change: Callable[[Any], None]) -> Callable[[parity.Pair], parity.Pair]:
    return lambda pair: replace(pair, after_loading=change)


def _weighs(labels: Any) -> Any:
    """The weights of all rows [B,Q]."""
    one, other = tf.constant([1.0, detr.NO_OBJECT], tf.float64)
    return tf.where(labels["classes"] > 0, one, other)


def _summed(rows: bool) -> detr.Settings:
    """Cross entropy that is summed, or divided by the number of rows."""
    own = detr.port_loss(detr.Settings())

    def loss(outputs: Any, labels: Any) -> dict[str, Any]:
        weights = _weighs(labels)
        factor = (tf.reduce_mean if rows else tf.reduce_sum)(weights)
        return {
            name: tf.cast(factor, term.dtype) * term if "_ce" in name else term
            for name, term in own(outputs, labels).items()
        }

    return detr.Settings(loss=loss)


def _statistics(settings: Any) -> Any:
    """The backbone's norms go by the batch, and are trained."""
    return models.port(detr.LIBRARY, detr.NormedDecoder, bn_trainable=True)


def _stopped(model: Any) -> None:
    """The first layer of the boxes' head passes nothing back."""
    layer = model._bbox_embed[0]
    call = layer.call
    layer.call = lambda x: call(tf.stop_gradient(x))


def _undropped(model: Any) -> None:
    model._transformer._decoder.decoder_layers[1].self_attention._dropout_layer.rate = 0.0


def _dropped_more(model: Any) -> None:
    model._transformer._encoder.encoder_layers[0]._inner_dropout_layer.rate = 0.2


def _of(name: str, factor: float) -> detr.Settings:
    return _terms(lambda term, value: factor * value if name in term else value)


PLANTED = (
    Planted(
        "detr-no-object-weight",
        detr,
        _task({"background_cls_weight": 1.0}),
        "loss",
        "without the weight of classes",
    ),
    Planted(
        "detr-giou-weight",
        detr,
        _task({"lambda_giou": 1.0}),
        "loss",
        "multiplied by 0.5",
    ),
    Planted("detr-l1-weight", detr, _task({"lambda_box": 1.0}), "loss", "multiplied by 0.2"),
    Planted(
        "detr-l1-giou-exchanged",
        detr,
        _task({"lambda_box": 2.0, "lambda_giou": 5.0}),
        "loss",
        "multiplied by 2.5",
    ),
    Planted("detr-class-weight", detr, _task({"lambda_cls": 2.0}), "loss", "multiplied by 2"),
    Planted("detr-class-sum", detr, _summed(rows=False), "loss", "a sum instead of a mean"),
    Planted("detr-class-plain-mean", detr, _summed(rows=True), "loss", "plain mean"),
    Planted(
        "detr-no-auxiliary-losses",
        detr,
        _terms(lambda name, term: None if name.endswith("_0") else term),
        "loss",
        "left out",
    ),
    Planted("detr-auxiliary-half", detr, _of("_0", 0.5), "loss", "multiplied by 0.5"),
    Planted("detr-l1-mean", detr, _of("bbox", 0.25), "loss", "a mean instead of a sum"),
    Planted("detr-matching-no-class", detr, _task(cost={"lambda_cls": 0.0}), "decisions", ""),
    Planted("detr-matching-no-boxes", detr, _task(cost={"lambda_box": 0.0}), "decisions", ""),
    Planted(
        "detr-backbone-rate",
        detr,
        _optimizer(slower=lambda variable: 1.0),
        "optimizer",
        "all parameters learn at the largest rate",
    ),
    Planted(
        "detr-backbone-slower",
        detr,
        _optimizer(slower=lambda variable: detr.slower(variable) ** 2),
        "optimizer",
        "is 0.1 times as large",
    ),
    Planted(
        "detr-norms-not-decayed",
        detr,
        _optimizer(decayed=lambda variable: variable.shape.rank > 1),
        "optimizer",
        "decay by 0 instead of 0.0001",
    ),
    Planted("detr-clip-1", detr, _optimizer(clip=1.0), "optimizer", "clipped to 1 instead of 0.1"),
    Planted("detr-no-clip", detr, _optimizer(clip=None), "optimizer", "not clipped"),
    Planted("detr-turn-late", detr, _optimizer(turns=(4,)), "schedule", "update before"),
    Planted("detr-batch-statistics", detr, detr.Settings(port=_statistics), "normalization", ""),
    Planted(
        "detr-boxes-stopped",
        detr,
        detr.Settings(),
        "bbox_predictor.layers.0",
        "stopped",
        _loaded(_stopped),
    ),
    Planted(
        "detr-attention-undropped",
        detr,
        detr.Settings(),
        DECODER,
        "keeps 1, but should keep 0.9",
        _loaded(_undropped),
    ),
    Planted(
        "detr-dropout-rate",
        detr,
        detr.Settings(),
        ENCODER,
        "keeps 0.8, but should keep 0.9",
        _loaded(_dropped_more),
    ),
)
