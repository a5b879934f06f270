"""The claims on several replicas: their gradients are shares, added up first, and clipped then."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from maskformer.family import MASKFORMER
from parity.claims import Place
from parity.metrics import perturb_ulp
from parity.training.rates import moved_from
from parity.training.replicas import Replicas, replicas_claim
from replication.process.fresh_process import in_fresh_process
from replication.process.logical_replicas import mirrored
from replication.training.sides import reference_alone

if TYPE_CHECKING:
    from maskformer.model.solver import SolverConfig

PER_PIXEL = "ade20k_pp"  # a configuration whose loss needs no matching
REPLICAS = 2
SIZE, FIRST, UPDATES = 64, 40, 3  # elements of two parameters, and of the first of them
SHARE_EXPLAINED = 1e-9  # relative
EXPLAINED = 1e-12  # relative; Adam hides all but this of a factor on every gradient


def reduction_claim(
    solver: "SolverConfig", command: str, prepare: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Two replicas' gradients, large parts of which cancel, make the update of their mean.

    TensorFlow fixes its devices when it starts, so the replicas run in a process of their own, in
    which `prepare` is called first.
    """
    solver = dataclasses.replace(solver, warmup_iters=0)
    gradients = _gradients(solver)
    mean, each = gradients.mean(axis=1), range(REPLICAS)
    copies = in_fresh_process(_port_update, solver, gradients, prepare=prepare)
    own = [
        np.concatenate([mean[:, :FIRST], gradients[:, index, FIRST:] / REPLICAS], 1)
        for index in each
    ]
    known = {
        "only some parameters' gradients are added up": own,
        "gradients are clipped before the reduction over replicas": [
            _clipped(gradients, solver.clip_value).mean(axis=1)
        ]
        * REPLICAS,
        "every replica updates by its own gradients alone": [
            gradients[:, index] / REPLICAS for index in each
        ],
        "the shares of replicas are averaged instead of added up": [mean / REPLICAS] * REPLICAS,
    }

    def moved(by: np.ndarray) -> dict[str, np.ndarray]:
        return {"": _reference_update(solver, by)}

    found = Replicas(
        [{"": copy} for copy in copies],
        [moved(mean)] * REPLICAS,
        [[moved(perturb_ulp(mean, seed))] * REPLICAS for seed in (0, 1)],
        {text: list(map(moved, given)) for text, given in known.items()},
        EXPLAINED,
    )
    told = (
        "train_reduction",
        "Two replicas add up their gradients, and then clip them, as one process would",
        f"the movement after {UPDATES} updates",
    )
    one = replicas_claim(found, told, "update", command)
    return one.located(Place.at("update", "reduction over replicas"), *one.causes)


def shares_claim(command: str, prepare: Callable[[], None] | None = None) -> dict[str, Any]:
    """Two replicas' gradients add up to that of the mean of their losses.

    The model is one factor per class on given logits, of which every replica sees its own image, so
    that the claim is on the step alone.
    """
    images, labels = _pixels()
    exact = _reference_shares(images, labels)
    total = np.sum(in_fresh_process(_port_shares, images, labels, prepare=prepare), axis=0)
    times = float(np.sum(total * exact) / np.sum(exact * exact))
    known = {
        "the loss is not divided by the number of replicas": REPLICAS * exact,
        f"the gradient is that of the mean loss times {times:.6g}": times * exact,
    }
    found = Replicas(
        [{"sum": total}],
        [{"sum": exact}],
        [],
        {text: [{"sum": wrong}] for text, wrong in known.items()},
        SHARE_EXPLAINED,
        ["two replicas"],
    )
    told = (
        "train_shares",
        "Each of two replicas finds its share of the gradient of the mean loss",
        "the summed gradient",
    )
    one = replicas_claim(found, told, "train step", command)
    return one.located(Place.at("train step", "share of a replica"), *one.causes)


def _pixels() -> tuple[np.ndarray, np.ndarray]:
    """Logits float64 [REPLICAS,K,h,w] of a per-pixel head, and labels int32 [REPLICAS,h,w]."""
    rng = np.random.default_rng(7)
    return rng.normal(size=(REPLICAS, 5, 4, 6)), rng.integers(0, 5, (REPLICAS, 4, 6), np.int32)


def _reference_shares(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The gradient, by one factor per class, of the mean over replicas of their losses."""
    import torch

    from torch_reference.criterion import per_pixel_losses

    weight = torch.ones(images.shape[1], 1, 1, dtype=torch.float64, requires_grad=True)
    losses = [
        per_pixel_losses(
            {MASKFORMER.outputs.pixels: torch.from_numpy(image[None]) * weight},
            torch.from_numpy(label[None].astype(np.int64)),
            255,
        )["loss_sem_seg"]
        for image, label in zip(images, labels, strict=True)
    ]
    torch.stack(losses).mean().backward()
    return weight.grad.numpy().ravel()


def _port_shares(images: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """What each replica's step finds; in a fresh process."""
    import tf_impl  # noqa: F401, I001  (selects tf_keras before TensorFlow is imported)
    import tensorflow as tf

    from maskformer.model import zoo
    from tf_impl import train_step

    strategy = mirrored(REPLICAS)

    class Head(tf.Module):
        """Logits times one factor per class."""

        config = zoo.model_config(PER_PIXEL)

        def __init__(self) -> None:
            super().__init__()
            self.weight = tf.Variable(np.ones((images.shape[1], 1, 1)))

        def __call__(self, images: Any, sizes: Any, training: bool) -> dict[str, Any]:
            return {MASKFORMER.outputs.pixels: images * self.weight}

    with strategy.scope():
        head = Head()

    def values() -> Any:
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        own = [tf.gather(tf.constant(array), [index]) for array in (images, labels)]
        return train_step.gradients(head, train_step.Batch(own[0], None, own[1])).values[0]

    found = strategy.experimental_local_results(strategy.run(values))
    return [one.numpy().ravel() for one in found]


def _gradients(solver: "SolverConfig") -> np.ndarray:
    """float64 [UPDATES,REPLICAS,SIZE]: opposite large parts, and a sum as small as the clip."""
    rng = np.random.default_rng(3)
    large = rng.normal(size=(UPDATES, SIZE))
    small = solver.clip_value * rng.normal(size=(UPDATES, REPLICAS, SIZE))
    # As large a part in one as in the other would be clipped alike, and would still cancel.
    return np.stack([large, -large], axis=1) + small * np.array([1.0, 30.0])[:, None]


def _clipped(gradients: np.ndarray, clip: float) -> np.ndarray:
    norms = np.linalg.norm(gradients, axis=-1, keepdims=True)
    return gradients * np.minimum(1.0, clip / (norms + 1e-6))


def _reference_update(solver: "SolverConfig", gradients: np.ndarray) -> np.ndarray:
    """How far torch's optimizer moves two parameters of zeros, [SIZE], by reduced gradients."""
    side = reference_alone(solver, "float64", (FIRST, SIZE - FIRST))
    given = [{"part0": one[:FIRST], "part1": one[FIRST:]} for one in gradients]
    return np.concatenate([*moved_from(side, 0, given)[-1].values()])


def _port_update(solver: "SolverConfig", gradients: np.ndarray) -> list[np.ndarray]:
    """The same on two replicas of TensorFlow, from each replica's copy; in a fresh process."""
    import tf_impl  # noqa: F401, I001  (selects tf_keras before TensorFlow is imported)
    import tensorflow as tf

    from tf_impl import optimizer as optimizers, train_step

    strategy = mirrored(REPLICAS)
    with strategy.scope():
        module = tf.Module()
        module.first, module.second = (tf.Variable(np.zeros(n)) for n in (FIRST, SIZE - FIRST))
        optimizer = optimizers.build_optimizer(module, solver, "float64")
        optimizer.build(module.trainable_variables)
    for of_replicas in gradients:

        def value(context: Any, of_replicas: np.ndarray = of_replicas) -> tf.Tensor:
            # The gradients of all replicas add up to that of the mean loss.
            return tf.constant(of_replicas[context.replica_id_in_sync_group] / REPLICAS)

        def update(one: tf.Tensor) -> None:
            train_step.update(module, optimizer, [one[:FIRST], one[FIRST:]])

        values = strategy.experimental_distribute_values_from_function(value)
        strategy.run(update, args=(values,))
    copies = map(strategy.experimental_local_results, (module.first, module.second))
    return [np.concatenate([one.numpy() for one in copy]) for copy in zip(*copies, strict=True)]
