"""DETR of `transformers` and that of the Model Garden, both trained as their libraries train them.

Models, matchers, losses, optimizer and schedule are the libraries' own. `Settings` names what of
them differs when both train, beside what `examples.detr` compares; with everything mended every
claim holds, in float64, in float32 and for several steps.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
import torch
from official.modeling import optimization
from official.projects.detr.configs import detr as configs
from official.projects.detr.modeling import transformer
from official.projects.detr.ops import matchers
from official.projects.detr.tasks import detection
from torch import nn
from transformers.loss import loss_for_object_detection as losses

import parity
from examples.detr import mapping, models
from examples.training.mended import AdamW, Piecewise
from parity.planting import replaced

LAST = models.LAYERS - 1
RATE, DECAY, CLIP, SLOWER, DROPPED = 1e-4, 1e-4, 0.1, 0.1, 0.1
TURNS = (3,)
WEIGHTS = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
NO_OBJECT = 0.1
MENDED = ("backbone", "between", "dropout", "boxes", "optimizer", "schedule")
LIBRARY = models.Differences()  # the forward pass as `transformers` has it


@dataclass(frozen=True)
class Settings:
    """What of both is mended; a fault changes one of the functions.

    Args:
        backbone: the reference's is trained; by itself `transformers` freezes all of one of its own
            kind, since it looks for names such as `stage.1`, which are `stages.1`.
        between: the port's decoder hands on what its norm makes of a layer, as `transformers` does
            where it has auxiliary losses.
        dropout: the reference drops attention and what is inside a feed-forward network too, and
            not what its encoder is given.
        boxes: the port adds no epsilon to areas of boxes.
        optimizer: the port has PyTorch's AdamW, with its epsilon and its clip.
        schedule: the port's rate changes at the update that PyTorch's changes at.
        task: makes the port's task of its configuration.
        loss, make, port: the port's, instead of the usual ones.
    """

    backbone: bool = True
    between: bool = True
    dropout: bool = True
    boxes: bool = True
    optimizer: bool = True
    schedule: bool = True
    task: Callable[[Any], Any] = detection.DetectionTask
    loss: Callable[..., Any] | None = None
    make: Callable[[Any], Any] | None = None
    port: Callable[["Settings"], Any] | None = None


class NormedDecoder(transformer.TransformerDecoder):
    """The Model Garden's, whose layers are given what the norm makes of the one before."""

    def call(
        self,
        target: tf.Tensor,
        memory: tf.Tensor,
        self_attention_mask: tf.Tensor | None = None,
        cross_attention_mask: tf.Tensor | None = None,
        return_all_decoder_outputs: bool = True,
        input_pos_embed: tf.Tensor | None = None,
        memory_pos_embed: tf.Tensor | None = None,
    ) -> list[tf.Tensor]:
        """target [B,Q,C], memory [B,S,C] to what is made of every layer, [B,Q,C] each."""
        found = []
        for layer in self.decoder_layers:
            target, _ = layer(
                [
                    target,
                    memory,
                    cross_attention_mask,
                    self_attention_mask,
                    input_pos_embed,
                    memory_pos_embed,
                ]
            )
            target = self.output_normalization(target)
            found.append(target)
        return [*found[:-1], self.output_normalization(target)]


def reference(settings: Settings) -> nn.Module:
    """The model of `transformers` with auxiliary outputs, in eval mode.

    Its weights are drawn so wide that a layer hands on numbers of the size that it is given. As
    narrow as `transformers` draws them for 256 channels, all queries would be alike, and what
    their attention learns from would be the rounding of their differences.
    """
    rates = {"attention_dropout": DROPPED, "activation_dropout": DROPPED}
    model = models.reference(
        0,
        auxiliary_loss=True,
        init_std=models.HIDDEN**-0.5,
        **(rates if settings.dropout else {}),
    )
    model.loss_function = auxiliary
    if settings.dropout:
        model.model.encoder.dropout = 0.0
    if settings.backbone:
        model.model.backbone.requires_grad_(True)
    return model


def auxiliary(logits: Any, labels: Any, device: Any, boxes: Any, config: Any, *every: Any) -> Any:
    """In place of a loss: none, and the outputs of earlier layers as `transformers` has them."""
    return None, None, losses._set_aux_loss(*every)


def port(settings: Settings) -> tf_keras.Model:
    """The Model Garden's model, with statistics that no step changes, as its experiments have."""
    decoder = NormedDecoder if settings.between else transformer.TransformerDecoder
    return models.port(LIBRARY, decoder, bn_trainable=False)


def names(settings: Settings) -> parity.Names:
    """Those of `examples.detr`, with the outputs of earlier layers."""
    tensors = {
        f"model:output.{layer}.{own}": f"auxiliary_outputs.{layer}.{theirs}"
        for layer in range(LAST)
        for own, theirs in (("cls_outputs", "logits"), ("box_outputs", "pred_boxes"))
    }
    views = {
        f"model:output.auxiliary_outputs.{layer}.logits": mapping.SCORES for layer in range(LAST)
    }
    calls = dict(mapping.NAMES.calls)
    if settings.between:
        del calls["model.decoder.layernorm"]
    else:
        calls["model.decoder.layernorm"] = {**{at: at for at in range(LAST)}, LAST: LAST + 1}
    return replace(
        mapping.NAMES,
        tensors={**mapping.NAMES.tensors, **tensors},
        views={**mapping.NAMES.views, **views},
        calls=calls,
        reference_only={
            **mapping.NAMES.reference_only,
            "model.decoder:output.intermediate_hidden_states": "what its norm makes of every layer",
        },
    )


def loss(outputs: Any, targets: Sequence[Any]) -> dict[str, torch.Tensor]:
    """The criterion of `transformers`, for every layer, its terms weighted as there."""
    criterion = losses.ImageLoss(matcher(), models.CLASSES, NO_OBJECT, ["labels", "boxes"])
    given = {name: outputs[name] for name in ("logits", "pred_boxes", "auxiliary_outputs")}
    found = criterion.to(outputs.logits.dtype)(given, targets)
    return {name: WEIGHTS[name.rstrip("_0123456789")] * one for name, one in found.items()}


def matcher() -> nn.Module:
    """That of `transformers`, with DETR's costs."""
    return losses.HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)


def matched(outputs: Any, targets: Sequence[Any]) -> dict[str, np.ndarray]:
    """The query of each object of the reference, by layer and image."""
    found = {}
    for layer, one in enumerate([*outputs.auxiliary_outputs, outputs]):
        given = {name: torch.from_numpy(one[name]) for name in ("logits", "pred_boxes")}
        wanted = [{key: torch.from_numpy(array) for key, array in each.items()} for each in targets]
        for image, (queries, objects) in enumerate(matcher()(given, wanted)):
            found[f"layer {layer}, image {image}"] = queries[objects.argsort()].numpy()
    return found


def task(settings: Settings) -> Any:
    """The Model Garden's task, with the settings of its experiment."""
    return settings.task(configs.detr_coco().task)


def port_loss(settings: Settings) -> Callable[..., Any]:
    """The Model Garden's, for every layer."""

    def loss(outputs: Sequence[Any], labels: Any) -> dict[str, tf.Tensor]:
        found, made = {}, task(settings)
        with boxes(settings):
            for layer, one in enumerate(outputs):
                _, *terms = made.build_losses(one, labels)
                place = f"_{layer}" if layer < LAST else ""
                found |= {f"{name}{place}": term for name, term in zip(WEIGHTS, terms, strict=True)}
        return found

    return loss


def port_matched(settings: Settings) -> Callable[..., Any]:
    """The query of each object of the port, by layer and image."""

    def decisions(outputs: Sequence[Any], labels: Any) -> dict[str, np.ndarray]:
        found, made = {}, task(settings)
        with boxes(settings):
            for layer, one in enumerate(outputs):
                scores, places = map(tf.constant, (one["cls_outputs"], one["box_outputs"]))
                cost = made._compute_cost(scores, places, labels["classes"], labels["boxes"])
                _, pairs = matchers.hungarian_matching(cost)
                queries = tf.argmax(pairs, axis=1).numpy()
                for image, classes in enumerate(labels["classes"]):
                    found[f"layer {layer}, image {image}"] = queries[image][classes > 0]
        return found

    return decisions


@contextmanager
def boxes(settings: Settings) -> Iterator[None]:
    """Inside it, where that is mended, the Model Garden's generalized IoU adds nothing to areas."""
    if not settings.boxes:
        yield
        return
    with replaced(detection.box_ops, "bbox_generalized_overlap", overlap):
        yield


def overlap(ours: tf.Tensor, theirs: tf.Tensor) -> tf.Tensor:
    """Generalized IoU (Rezatofighi et al., 2019, arXiv:1902.09630) of corners [B,N,4], [B,M,4]."""
    ours, theirs = ours[:, :, None], theirs[:, None]

    def area(low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
        return tf.reduce_prod(tf.maximum(high - low, 0 * high), -1)

    inner = area(
        tf.maximum(ours[..., :2], theirs[..., :2]), tf.minimum(ours[..., 2:], theirs[..., 2:])
    )
    hull = area(
        tf.minimum(ours[..., :2], theirs[..., :2]), tf.maximum(ours[..., 2:], theirs[..., 2:])
    )
    union = sum(area(one[..., :2], one[..., 2:]) for one in (ours, theirs)) - inner
    return inner / union - (hull - union) / hull


def optimizer(parameters: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """AdamW with all gradients clipped by one norm; the backbone learns slower."""
    backbone = [one for name, one in parameters if "backbone" in name]
    others = [one for name, one in parameters if "backbone" not in name]
    groups = [{"params": others}, {"params": backbone, "lr": SLOWER * RATE}]
    made = torch.optim.AdamW([one for one in groups if one["params"]], RATE, weight_decay=DECAY)

    def clip(*given: Any) -> None:
        nn.utils.clip_grad_norm_([*others, *backbone], CLIP)

    made.register_step_pre_hook(clip)
    return made


def schedule(made: torch.optim.Optimizer) -> Any:
    """A tenth of the rate from one update on."""
    return torch.optim.lr_scheduler.MultiStepLR(made, list(TURNS), 0.1)


def slower(variable: tf.Variable) -> float:
    """In which units of the rate the port's variable learns: the Model Garden goes by its name."""
    return 1.0 if "detr" in variable.name else SLOWER


def port_optimizer(settings: Settings) -> Callable[[Any], Any]:
    """The port's optimizer, the Model Garden's own or the mended one."""

    def make(model: tf_keras.Model) -> Any:
        config = configs.detr_coco().trainer.optimizer_config
        config.learning_rate.stepwise.boundaries = list(TURNS)
        factory = optimization.OptimizerFactory(config)
        values = config.learning_rate.stepwise.values
        rate = Piecewise(TURNS, values) if settings.schedule else factory.build_learning_rate()
        if settings.optimizer:
            return AdamW(rate, DECAY, clip=CLIP, slower=slower)
        return factory.build_optimizer(rate)

    return make


def batch() -> tuple[dict[str, Any], list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """The reference's arguments, its targets, and the port's: as many rows as there are queries.

    The Model Garden's classes begin with that of no object.
    """
    pixels, mask = models.images(LIBRARY, 0)
    rng = np.random.default_rng(1)
    targets, classes, every = [], [], []
    for count in (3, 2):
        labels = rng.integers(0, models.CLASSES, count)
        sides = rng.uniform(0.2, 0.5, (count, 2))
        centres = rng.uniform(0.3, 0.7, (count, 2))
        places = np.concatenate([centres, sides], 1).astype(np.float32)
        targets.append({"class_labels": labels, "boxes": places})
        free = models.QUERIES - count
        classes.append(np.concatenate([labels + 1, np.zeros(free, np.int64)]))
        every.append(np.concatenate([places, np.zeros((free, 4), np.float32)]))
    inputs = {"pixel_values": pixels, "pixel_mask": mask, "labels": []}
    return inputs, targets, {"classes": np.stack(classes), "boxes": np.stack(every)}


def pair(settings: Settings = Settings()) -> parity.Pair:
    """Both models."""
    inputs, _, _ = batch()
    pixels = np.ascontiguousarray(inputs["pixel_values"].transpose(0, 2, 3, 1))
    return parity.Pair(
        lambda: reference(settings),
        lambda: (settings.port or port)(settings),
        inputs,
        port_inputs=(pixels,),
        names=names(settings),
        weights=mapping.weights(LIBRARY),
        stage=mapping.stage,
    )


def training(settings: Settings = Settings(), steps: int = 4) -> parity.Training:
    """How both are trained."""
    _, targets, labels = batch()
    return parity.Training(
        (targets,),
        loss,
        settings.loss or port_loss(settings),
        optimizer,
        settings.make or port_optimizer(settings),
        port_targets=(labels,),
        steps=steps,
        schedule=schedule,
        turns=TURNS,
        decisions=matched,
        port_decisions=port_matched(settings),
    )
