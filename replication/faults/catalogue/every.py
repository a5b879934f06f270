"""The whole catalogue, in the order in which its benches are measured."""

from collections.abc import Callable, Mapping
from typing import Any

from parity.faults import Fault
from replication.faults.benches.metric import MetricBench
from replication.faults.catalogue import (
    circumstances,
    coinciding,
    extremes,
    forward,
    host,
    precisions,
    state,
    swin,
    training,
    wiring,
)

FAULTS: tuple[Fault, ...] = (
    *forward.FAULTS,
    *wiring.FAULTS,
    *circumstances.FAULTS,
    *swin.FAULTS,
    *training.FAULTS,
    *extremes.FAULTS,
    *precisions.FAULTS,
    *state.FAULTS,
    *host.FAULTS,
    *coinciding.FAULTS,
)
BENCHES: Mapping[str, Callable[[str, str], Any]] = {"metric": lambda config, size: MetricBench()}
