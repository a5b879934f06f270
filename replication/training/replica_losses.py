"""The claim on what two replicas divide their losses by, which one process cannot show."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from maskformer.family import family_of
from parity.training.measured import TWINS
from parity.training.replicas import Replicas, replicas_claim
from parity.training.updates import perturbed
from replication.process.fresh_process import in_fresh_process
from replication.process.logical_replicas import mirrored

if TYPE_CHECKING:
    from maskformer.model.config import ModelConfig

COUNTS = (5, 1)  # segments of each replica's image
QUERIES, GRID, STRIDE = 12, (6, 8), 4
EXPLAINED = 1e-9  # relative
Losses = list[dict[str, float]]


def losses_claim(
    config: "ModelConfig", command: str, prepare: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Each of two replicas has the losses that the original's normalisation gives its rank.

    The class loss is a mean weighted by the rank's own weights; masks are counted over all ranks.
    TensorFlow fixes its devices when it starts, so the replicas run in a process of their own, in
    which `prepare` is called first.
    """
    outputs, targets = _case(config)
    exact = _reference(config, outputs, targets)
    found = Replicas(
        in_fresh_process(_port, config, outputs, targets, prepare=prepare),
        exact,
        [_reference(config, perturbed(outputs, seed), targets) for seed in TWINS],
        _known(config, exact),
        EXPLAINED,
    )
    told = (
        "train_replica_losses",
        "On two replicas every loss is divided as the original's ranks divide it",
        "a loss",
    )
    return replicas_claim(found, told, "criterion", command)


def _case(config: "ModelConfig") -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Predictions of one image per replica, and its segments: as many as `COUNTS` says."""
    rng = np.random.default_rng(5)
    replicas, names = len(COUNTS), family_of(config).outputs
    outputs = {
        names.classes: rng.normal(size=(replicas, QUERIES, config.num_classes + 1)),
        names.masks: rng.normal(size=(replicas, QUERIES, *GRID)),
    }
    targets = []
    for count in COUNTS:
        owner = rng.integers(0, count, [STRIDE * side for side in GRID])
        masks = owner == np.arange(count)[:, None, None]
        targets.append({"labels": rng.integers(0, config.num_classes, count), "masks": masks})
    return outputs, targets


def _reference(config: "ModelConfig", outputs: Any, targets: Any) -> Losses:
    """The losses of each rank: those of its image alone, with masks counted over all ranks."""
    import torch

    from torch_reference.criterion import SetCriterion

    criterion = SetCriterion(config).double()
    shared = max(sum(COUNTS) / len(COUNTS), 1.0)
    found = []
    for index, count in enumerate(COUNTS):
        one = {
            name: torch.from_numpy(array[index : index + 1].copy())
            for name, array in outputs.items()
        }
        wanted = {name: torch.from_numpy(array) for name, array in targets[index].items()}
        losses = {name: float(value) for name, value in criterion(one, [wanted]).items()}
        for name in losses:
            if name != "loss_ce":
                losses[name] *= count / shared
        found.append(losses)
    return found


def _port(config: "ModelConfig", outputs: Any, targets: Any) -> Losses:
    """The same on two replicas of TensorFlow; in a fresh process."""
    import tf_impl  # noqa: F401, I001  (selects tf_keras before TensorFlow is imported)
    import tensorflow as tf

    from tf_impl.criterion import SetCriterion
    from tf_impl.matcher import Targets, pad_targets

    strategy = mirrored(len(COUNTS))
    with strategy.scope():
        criterion = SetCriterion(config, dtype="float64")
    padded = pad_targets(targets, max(COUNTS))
    given = {name: tf.constant(array) for name, array in outputs.items()}

    def losses() -> dict[str, tf.Tensor]:
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        own = Targets(*(tf.gather(part, [index]) for part in padded))
        return criterion({name: tf.gather(one, [index]) for name, one in given.items()}, own)

    found = strategy.run(losses)
    local = {name: strategy.experimental_local_results(value) for name, value in found.items()}
    return [
        {name: float(values[index]) for name, values in local.items()}
        for index in range(len(COUNTS))
    ]


def _known(config: "ModelConfig", exact: Losses) -> dict[str, Losses]:
    """What other ways of dividing make of the losses that they change."""
    nothing = float(np.float32(config.loss.no_object_weight))  # as the buffer holds it
    share = [count + (QUERIES - count) * nothing for count in COUNTS]
    mean_share, mean_count = (sum(one) / len(one) for one in (share, COUNTS))
    masks = ("loss_mask", "loss_dice")
    known = {
        "the class loss is normalised over all replicas": (
            ("loss_ce",),
            [one / mean_share for one in share],
        ),
        "masks are counted per replica": (masks, [mean_count / count for count in COUNTS]),
        "masks of all replicas are not divided by their number": (
            masks,
            [1 / len(COUNTS)] * len(COUNTS),
        ),
    }
    return {
        text: [
            {name: own[name] * factor for name in names}
            for own, factor in zip(exact, factors, strict=True)
        ]
        for text, (names, factors) in known.items()
    }
