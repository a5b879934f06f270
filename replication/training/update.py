"""The claims on what the step does with its gradients: which it hands over, and one update by them.

Each is judged on what the reference hands to it. An update divides small gradients by themselves,
so that the weights after it would tell rounding from mistakes badly if both came from elsewhere.
"""

import dataclasses
from collections.abc import Sequence

from parity.claims import Claim, Place
from parity.training.backward import handed_claim
from parity.training.sides import NORM as NORM
from parity.training.updates import STEP
from parity.training.updates import update_claim as engine_update_claim
from replication.training.causes import of_sum
from replication.training.port import PortStep
from replication.training.reference import ReferenceStep


def step_gradients_claim(
    reference: ReferenceStep, port: PortStep, earlier: Sequence[Claim], command: str
) -> Claim:
    """That the port's step finds the gradients of the loss, which `earlier` claims have judged."""
    ours, given = port.gradients(), reference.updates.gradients[0]
    one = handed_claim(given, ours, reference.floors, command)
    if not one.fails:
        return one
    if any(claimed.verdict == "fails" for claimed in earlier):
        return one.located(Place.inherits("the gradients"))
    return one.located(Place.at(STEP, "gradients"), of_sum(reference, ours))


def update_claim(reference: ReferenceStep, port: PortStep, command: str) -> Claim:
    """The engine's, of a step whose gradients are the reference's, and the norm it returns."""
    side = dataclasses.replace(port.side, updating=port.updating)
    return engine_update_claim(reference.updates, side, command)
