"""The claim on several replicas: their gradients are added up first, and clipped then."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.claims import claim, located
from parity.judge import FUNCTION_FACTOR
from replication.logical_replicas import in_fresh_process, mirrored

if TYPE_CHECKING:
    from maskformer.solver import SolverConfig

REPLICAS = 2
SIZE, UPDATES = 64, 3


def reduction_claim(
    solver: "SolverConfig", command: str, prepare: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Two replicas' gradients, large parts of which cancel, make the update of their mean.

    TensorFlow fixes its devices when it starts, so the replicas run in a process of their own, in
    which `prepare` is called first.
    """
    import dataclasses

    from parity.metrics import perturb_ulp

    solver = dataclasses.replace(solver, warmup_iters=0)
    gradients = _gradients(solver)
    exact = _reference_update(solver, gradients.mean(axis=1))
    moved = [perturb_ulp(gradients.mean(axis=1), seed) for seed in (0, 1)]
    least = float(np.finfo(np.float64).eps)
    floor = max(least, *(_gap(_reference_update(solver, one), exact) for one in moved))
    copies = in_fresh_process(_port_update, solver, gradients, prepare)
    gaps = {f"replica {index}": _gap(copy, exact) for index, copy in enumerate(copies)}
    one = claim(
        "train_reduction",
        "Two replicas add up their gradients, and then clip them, as one process would",
        {"rule": "largest", "values": gaps, "limit": {"name": "floor_factor", "times": floor}},
        f"gap of the movement after {UPDATES} updates; the limit is {FUNCTION_FACTOR:g} x the "
        "reference's own gap when the gradients move by one unit in the last place",
        command,
    )
    early = _reference_update(solver, _clipped(gradients, solver.clip_value).mean(axis=1))
    cause = None
    if max(_gap(copy, early) for copy in copies) <= 1e-9:
        cause = "gradients are clipped before the reduction over replicas"
    return located(one, "update: reduction over replicas", cause)


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


def _gap(ours: np.ndarray, exact: np.ndarray) -> float:
    gap = float(np.linalg.norm(ours - exact) / np.linalg.norm(exact))
    return gap if np.isfinite(gap) else np.inf


def _reference_update(solver: "SolverConfig", gradients: np.ndarray) -> np.ndarray:
    """How far torch's optimizer moves zeros, [SIZE], given the reduced gradients."""
    import torch

    from torch_reference.optimizer import build_optimizer
    from torch_reference.schedule import SolverSchedule

    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))
    optimizer = build_optimizer(module, solver)
    schedule = SolverSchedule(optimizer, solver)
    for gradient in gradients:
        module.weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        schedule.step()
    return module.weight.detach().numpy()


def _port_update(
    solver: "SolverConfig", gradients: np.ndarray, prepare: Callable[[], None] | None
) -> list[np.ndarray]:
    """The same on two replicas of TensorFlow, from each replica's copy; in a fresh process."""
    import tf_impl  # noqa: F401, I001  (selects tf_keras before TensorFlow is imported)
    import tensorflow as tf

    from tf_impl import optimizer as optimizers, train_step

    if prepare is not None:
        prepare()
    strategy = mirrored(REPLICAS)
    with strategy.scope():
        module = tf.Module()
        module.weight = tf.Variable(np.zeros(SIZE))
        optimizer = optimizers.build_optimizer(module, solver, "float64")
        optimizer.build(module.trainable_variables)
    for of_replicas in gradients:

        def value(context: Any, of_replicas: np.ndarray = of_replicas) -> tf.Tensor:
            # The gradients of all replicas add up to that of the mean loss.
            return tf.constant(of_replicas[context.replica_id_in_sync_group] / REPLICAS)

        values = strategy.experimental_distribute_values_from_function(value)
        strategy.run(lambda one: train_step.update(module, optimizer, [one]), args=(values,))
    copies = strategy.experimental_local_results(module.weight)
    return [copy.numpy() for copy in copies]
