"""What `parity audit --train` adds: losses, matchings, gradients and one update, in float64.

Every stage is judged in place, and alone on what the reference hands to it, so that a claim that
fails says where: at a stage with an error of its own, or at an earlier one that it inherits from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from maskformer.family import family_of
from parity.claims import Claim, verdict_of
from parity.comparing.initial_weights import claim_of
from parity.steps import Steps, give_back
from parity.training.backward import gradient_claims, isolated_gradients_claim
from replication.sides.side import PORT, implementation
from replication.training import precision
from replication.training.bfloat16 import bfloat16_claims, measured
from replication.training.dropout import dropout_claims
from replication.training.initial_weights import compared
from replication.training.losses import loss_claim
from replication.training.matching import cost_claim, matching_claim
from replication.training.port import PortStep, backward_of, port_step
from replication.training.rates import rate_claims
from replication.training.reference import ReferenceStep, reference_step
from replication.training.replica_losses import losses_claim
from replication.training.replicas import reduction_claim, shares_claim
from replication.training.task import task_claim
from replication.training.update import step_gradients_claim, update_claim
from reports.chapters.training import StepResult

if TYPE_CHECKING:
    from maskformer.model.config import ModelConfig
    from maskformer.model.solver import SolverConfig
    from replication.sides.weights import Weights

STEPS = 9  # that `training_claims` announces, and one more where float32 is compared


@dataclass(frozen=True)
class Case:
    """A model, and how it is trained.

    `solver` gives the optimizer, its groups, the clip norm and the schedule; the update itself is
    compared without warm-up. `port_weights` are the port's own where it has not the reference's.
    """

    config: "ModelConfig"
    solver: "SolverConfig"
    weights: "Weights"
    port_weights: "Weights | None" = None


def training_claims(
    case: Case,
    images: np.ndarray,
    sizes: np.ndarray,
    command: str,
    steps: Steps,
    *,
    isolate: bool = False,
    bfloat16: bool = False,
    executions: Sequence[str] = (),
) -> list[Claim]:
    """The claims on one training step without dropout, on synthetic targets.

    A claim that fails has two more entries: `place`, the part that has an error of its own or that
    the error comes from, and `cause`, a mistake that explains it to the digit, or None.

    Args:
        images: uint8 [N,H,W,3], and their valid `sizes` int32 [N,2].
        isolate: also run the backward pass of every module alone.
        bfloat16: also compare the step in bfloat16, whose steps are announced beside `STEPS`.
        executions: how the port's step is run in float32, which is compared as well.
    """
    config, solver = case.config, case.solver
    reference = reference_step(config, solver, case.weights, images, sizes, steps)
    with steps("training step of the port, float64"):
        weights = case.port_weights or case.weights
        port = port_step(reference, implementation(PORT).build(config, weights, "float64"))
    with steps("training claims"):
        claims = step_claims(reference, port, command)
        claims.append(task_claim(reference, port, claims[-1], command))
        give_back()  # optimizers, whose moments are as large as the weights twice over
        if isolate:
            claims.append(isolated_gradients_claim(backward_of(reference, port), command))
        give_back()
    with steps("extreme outputs"):
        step = precision.as_engine(reference)
        claims += precision.extreme_claims(step, port, command)
    with steps("dropout, the same masks on both sides"):
        claims += dropout_claims(reference, port.model, command)
        give_back()
    if bfloat16:
        held = measured(reference, step, case.weights)
        claims += bfloat16_claims(held, case.port_weights or case.weights, command, steps)
    if executions:
        with steps(f"training steps in float32, {', '.join(executions)}"):
            both = case.weights, case.port_weights or case.weights
            claims += precision.float32_claims(reference, step, both, executions, command)
    with steps("initial weights"):
        claims.append(claim_of(compared(config), command))
    with steps("schedule, and two replicas"):
        claims += [*rate_claims(solver, command), reduction_claim(solver, command)]
        claims.append(shares_claim(command))
        if family_of(config).matching(config) is not None:
            claims.append(losses_claim(config, command))
    return claims


def training_result(
    config: "ModelConfig",
    solver: "SolverConfig",
    size: str,
    command: str,
    steps: Steps,
    *,
    isolate: bool = False,
) -> StepResult:
    """`training_claims` on one synthetic image of `size` ("HxW") with seeded weights, recorded."""
    from maskformer.data.images import batch_images, parse_size, synthetic_image
    from parity.provenance import provenance
    from replication.sides.weights import load_weights

    known = dict(steps.timings)
    weights = load_weights("seeded:0", config)
    images, sizes = batch_images([synthetic_image(*parse_size(size), 0)], config)
    case = Case(config, solver, weights)
    claims = training_claims(case, images, sizes, command, steps, isolate=isolate)
    return StepResult(
        title=f"One training step of {config.name}",
        verdict=verdict_of(claims),
        config=config.name,
        size=size,
        claims=tuple(claims),
        timings={
            name: round(seconds, 3) for name, seconds in steps.timings.items() if name not in known
        },
        not_verified=("training runs and the PQ or mIoU they reach", "execution on a TPU"),
        provenance=provenance(
            config=config.name,
            config_sha256=config.digest,
            weights=weights.source,
            weights_sha256=weights.sha256,
        ),
    )


def step_claims(reference: ReferenceStep, port: PortStep, command: str) -> list[Claim]:
    """The claims on costs, matching, losses, gradients and the update; no weight changes."""
    targets, found, claims = port.batch.targets, port.found, []
    if reference.pairs is not None:
        costs = cost_claim(reference, targets, command)
        pairs = matching_claim(reference, port.model, targets, found.matching, costs, command)
        claims += [costs, pairs]
    claims.append(loss_claim(reference, port, claims, command))
    gradients = gradient_claims(backward_of(reference, port), claims, command)
    handed = step_gradients_claim(reference, port, gradients, command)
    return [*claims, *gradients, handed, update_claim(reference, port, command)]
