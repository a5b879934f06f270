"""What `parity audit --train` adds: losses, matchings, gradients and one update, in float64."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from replication.audit_result import claim, margin_claim
from replication.progress import Steps

if TYPE_CHECKING:
    from maskformer.config import ModelConfig
    from maskformer.solver import SolverConfig
    from replication.pair import Weights

LOSS_LIMIT = 1e-12


def training_claims(
    config: "ModelConfig",
    solver: "SolverConfig",
    weights: "Weights",
    images: np.ndarray,
    sizes: np.ndarray,
    command: str,
    steps: Steps,
) -> list[dict[str, Any]]:
    """Four claims on one training step without dropout, on synthetic targets.

    Args:
        images: uint8 [N,H,W,3], and their valid `sizes` int32 [N,2].
        solver: gives the optimizer, its groups and the clip norm; warm-up is left out, because the
            first rate of a warm-up may be zero.
    """
    from parity import capture_torch
    from parity.gradients import gradient_verdicts, unpaired_parameters
    from parity.gradients_torch import GradientRecorder as ReferenceRecorder
    from parity.pairing import Comparison
    from replication import pair, training_pair
    from torch_reference import train_step as reference_step
    from torch_reference.optimizer import build_optimizer as build_reference_optimizer

    solver = dataclasses.replace(solver, warmup_iters=0)
    targets = training_pair.synthetic_targets(config, sizes, images.shape[1:3])
    wanted: Any = targets
    if config.is_per_pixel:
        wanted = training_pair.label_map(targets, config.ignore_value)
    inputs = pair.reference_inputs(images, sizes, "float64")
    with steps("training step of the reference, float64"):
        model = pair.build_reference(config, weights, "float64")
        batch = training_pair.reference_batch(config, images, sizes, wanted, "float64")
        loss = training_pair.reference_loss(model, batch.targets)
        reference = ReferenceRecorder(model, pair.REFERENCE_AXES, loss)
        _, gradients = reference(inputs)
        losses, _ = reference_step.backward(model, batch)
        costs = _reference_costs(model, batch)
    with steps("rounding floor of the gradients"):
        floors = capture_torch.measure_floors(reference, inputs, gradients)
    with steps("training step of the port, float64"):
        port_model = pair.build_port(config, weights, "float64")

        from parity.gradients_tf import GradientRecorder as PortRecorder
        from tf_impl import train_step as port_step
        from tf_impl.optimizer import build_optimizer as build_port_optimizer

        port_batch = training_pair.port_batch(config, images, sizes, wanted, "float64")
        port = PortRecorder(
            port_model,
            pair.PORT_AXES,
            training_pair.port_loss(port_model, port_batch.targets),
            training_pair.port_parameters(port_model),
        )
        comparison = Comparison(gradients)
        port(pair.port_inputs(images, sizes, "float64"), comparison)
        found = port_step.gradients(port_model, port_batch)
    with steps("one update of both"):

        def updated() -> dict[str, np.ndarray]:
            reference_step.train_step(model, build_reference_optimizer(model, solver), batch)
            return {k: p.detach().numpy().copy() for k, p in model.named_parameters()}

        with reference.perturbed(0):
            twin = updated()
        optimizer = build_port_optimizer(port_model, solver, "float64")
        optimizer.build(port_model.trainable_variables)
        port_step.update(port_model, optimizer, found.values)
        after = [variable.numpy() for variable in port_model.trainable_variables]
        exact = updated()
        updates = _update_verdicts(training_pair.keyed(port_model, after), exact, twin)

    gaps = {
        name: abs(float(found.losses[name]) / float(value) - 1) for name, value in losses.items()
    }
    worst = max(gaps.values())
    claims = [
        claim(
            "train_losses",
            "Every loss of every decoder layer is the same in float64",
            worst <= LOSS_LIMIT,
            worst,
            LOSS_LIMIT,
            len(gaps),
            "largest relative gap; thousands of float64 roundings of the sums over pixels",
            gaps,
            command,
        )
    ]
    if not config.is_per_pixel:
        claims.append(_matching_claim(costs, found.matching, port_batch.targets, command))
    verdicts = {v.key: v for v in gradient_verdicts(comparison.gaps, floors)}
    lost = [*comparison.missing(), *unpaired_parameters(comparison)]
    claims += [
        claim(
            "train_gradients_pairing",
            "Every gradient between modules and of every parameter has its counterpart",
            not lost,
            len(lost),
            0,
            len(gradients),
            "a tensor whose gradient is lost in one framework is learnt from in one only",
            lost,
            command,
        ),
        margin_claim(
            "train_gradients",
            "Every gradient between modules and of every parameter agrees to rounding in float64",
            verdicts,
            "largest gap in units of its limit; the limit is min(32 x floor, 1e-9), the floor the "
            "reference's own gap when inputs and weights move by one unit in the last place and "
            "sums are reordered; where that leaves not one digit, the gradient is zero in theory "
            "and must be as small in the port",
            command,
        ),
        margin_claim(
            "train_update",
            "After one clipped update of the optimizer every parameter is the same in float64",
            updates,
            "largest gap of a weight in units of its limit, min(32 x floor, 1e-9); the floor is "
            "the reference's own gap when it starts one unit in the last place away",
            command,
        ),
    ]
    return claims


def _reference_costs(model: Any, batch: Any) -> list[list[np.ndarray]]:
    """Cost matrices [Q,T] of the reference, by decoder layer (the final one first) and image."""
    import torch

    if model.config.is_per_pixel:
        return []
    with torch.no_grad():
        outputs = model(batch.images, batch.sizes)
        return [
            [
                model.criterion.matcher.costs(logits, masks, target).numpy()
                for logits, masks, target in zip(
                    layer["pred_logits"], layer["pred_masks"], batch.targets, strict=True
                )
            ]
            for layer in (outputs, *outputs.get("aux_outputs", ()))
        ]


def _matching_claim(
    costs: list[list[np.ndarray]], matching: Any, targets: Any, command: str
) -> dict[str, Any]:
    """The port's pairs are the reference's, and optimal by a certificate that trusts no solver."""
    import tensorflow as tf
    from scipy.optimize import linear_sum_assignment as scipy_assignment

    from parity.assignment import certify
    from tf_impl.linear_sum_assignment import linear_sum_assignment

    pairs = matching.target_of_query.numpy()
    evidence = []
    for layer, images in enumerate(costs):
        for image, cost in enumerate(images):
            queries = np.flatnonzero(pairs[layer, image] >= 0)
            chosen = pairs[layer, image][queries]
            rows, columns = scipy_assignment(cost)
            same = np.array_equal(rows, queries) and np.array_equal(columns, chosen)
            solved = linear_sum_assignment(tf.constant(cost[None]), tf.constant([cost.shape[1]]))
            certificate = certify(
                cost, queries, chosen, solved.row_duals.numpy()[0], solved.column_duals.numpy()[0]
            )
            evidence.append({"same": bool(same), "certificate": str(certificate)})
            evidence[-1]["holds"] = bool(same and certificate.holds)
    failures = sum(not one["holds"] for one in evidence)
    return claim(
        "train_matching",
        "Every target is matched to the same query, and no cheaper matching exists",
        failures == 0,
        failures,
        0,
        len(evidence),
        "pairs compared with the reference's, and certified from dual variables on the "
        "reference's own costs: feasible and complementary duals prove the optimum",
        evidence,
        command,
    )


def _update_verdicts(
    ours: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray], twin: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    from parity.gradients import gradient_verdict
    from parity.metrics import gap
    from parity.trace import tap_key

    verdicts = {}
    for name, array in exact.items():
        path, _, own = name.rpartition(".")
        key = tap_key(path, "update", own)
        verdicts[key] = gradient_verdict(key, gap(ours[name], array), gap(twin[name], array))
    return verdicts
