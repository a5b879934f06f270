"""The whole catalogue, in the order in which its benches are measured."""

from collections.abc import Callable, Mapping
from typing import Any

from parity.faults import Fault
from parity_tests.faults import forward, host, swin, training
from parity_tests.faults.metric_bench import MetricBench

FAULTS: tuple[Fault, ...] = (*forward.FAULTS, *swin.FAULTS, *training.FAULTS, *host.FAULTS)
BENCHES: Mapping[str, Callable[[str, str], Any]] = {"metric": lambda config, size: MetricBench()}
