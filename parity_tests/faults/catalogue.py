"""The whole catalogue, in the order in which its benches are measured."""

from parity.faults import Fault
from parity_tests.faults import forward, swin, training

FAULTS: tuple[Fault, ...] = (*forward.FAULTS, *swin.FAULTS, *training.FAULTS)
