"""The bench of what a model remembers: two canvases one after the other, and the first again."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from maskformer.model.config import ModelConfig
from parity.auditing.port import Port, build_port
from parity.auditing.reference import Reference, measure_reference
from parity.audits import judge_port
from replication.faults.benches.finding import Finding, broken
from replication.faults.benches.model import places_of, quietly
from replication.forward.run import Case, Request, prepare


class CanvasBench:
    """The forward pass of one model of the port on canvases of several sizes, float64.

    What is kept of the first and taken for another is named at the module that keeps it.
    """

    def __init__(self, config: ModelConfig, weights: str, sizes: tuple[str, ...]) -> None:
        self._cases: list[tuple[Case, Reference]] = []
        for size in sizes:
            case = prepare(Request(config, weights, size=size, executions=()), quietly())
            self._cases.append((case, measure_reference(case.pair, case.options, quietly())))
        case, reference = self._cases[0]
        self._port: Port = build_port(reference, case.options, quietly())

    @cached_property
    def modules(self) -> list[Mapping[str, Any]]:
        """The port's modules by path."""
        from parity.frameworks.tensorflow.modules import named_modules

        return [named_modules(self._port.model64, private=False)]

    @cached_property
    def variables(self) -> list[Mapping[str, tuple[Any, Any]]]:
        """The port's variables and their layouts by state-dict key."""
        from weight_conversion.layouts import tf_variables

        return [tf_variables(self._port.model64)]

    def audit(self) -> Finding:
        """What the audits of all canvases say, one after another."""
        claims: dict[str, None] = {}
        named = []
        for case, reference in (*self._cases, self._cases[0]):
            try:
                result = judge_port(reference, self._port, case.options, quietly())
            except Exception as error:
                return broken("model", error)
            claims |= dict.fromkeys(one.id for one in result.failing)
            named += places_of(result)
        return Finding(tuple(claims), tuple(named), {})
