"""The backward passes of a MaskFormer's training step, as the engine judges them."""

from parity.training.backward import Backward
from replication.sides.torch_side import REFERENCE_AXES
from replication.training.port import PortStep
from replication.training.reference import ReferenceStep


def backward_of(reference: ReferenceStep, port: PortStep) -> Backward:
    """Both sides' backward passes; a wrong loss is called `criterion`."""
    from parity.frameworks.torch.capture import Recorder

    return Backward(
        Recorder(reference.model, REFERENCE_AXES),
        reference.recorder,
        port.recorder,
        reference.inputs,
        port.inputs,
        reference.gradients,
        reference.floors,
        port.comparison,
        "criterion",
    )
