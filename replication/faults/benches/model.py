"""Benches that compare whole models: the forward pass and its precision."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from maskformer.family import MASKFORMER
from maskformer.model.config import ModelConfig
from parity.auditing.alone import bfloat16_claims, reference_sides
from parity.auditing.port import build_port
from parity.auditing.reference import measure_reference
from parity.auditing.result import AuditResult
from parity.audits import judge_port
from parity.faults import Named, conventional
from parity.judge import BFLOAT16
from parity.steps import Steps
from replication.faults.benches.finding import Finding, broken, found_by
from replication.forward.run import Case, Request, prepare
from reports.precision_place import less_exact

OUTPUTS = (MASKFORMER.outputs.classes, MASKFORMER.outputs.masks, MASKFORMER.outputs.pixels)


class ForwardBench:
    """The whole model on one synthetic image, forward."""

    def __init__(self, config: ModelConfig, weights: str, size: str) -> None:
        case = self._measure(Request(config, weights, size=size, executions=("eager",)))
        # The float32 models give only the outputs that customary checks look at.
        self._options = case.float64

    def _measure(self, request: Request) -> Case:
        """Both sides of the request, measured and built."""
        case = prepare(request, quietly())
        self._reference = measure_reference(case.pair, case.options, quietly())
        self._port = build_port(self._reference, case.options, quietly())
        return case

    @cached_property
    def modules(self) -> list[Mapping[str, Any]]:
        """Of both models of the port, float64 and float32: modules by path."""
        from parity.frameworks.tensorflow.modules import named_modules

        return [named_modules(model, private=False) for model in self._models]

    @cached_property
    def variables(self) -> list[Mapping[str, tuple[Any, Any]]]:
        """Of both models of the port: variables and their layouts by state-dict key."""
        from weight_conversion.layouts import tf_variables

        return [tf_variables(model) for model in self._models]

    @property
    def _models(self) -> list[Any]:
        return [self._port.model64, self._port.model32]

    def audit(self) -> Finding:
        """What the audit says of the port as it is now."""
        try:
            outputs = self._outputs()
        except Exception as error:
            return broken("model", error)
        result = judge_port(self._reference, self._port, self._options, quietly())
        claims = tuple(one.id for one in result.failing)
        return Finding(claims, self._named(result), conventional(outputs, self._expected()))

    def _named(self, result: AuditResult) -> tuple[Named, ...]:
        return places_of(result)

    def _expected(self) -> dict[str, np.ndarray]:
        outputs = self._reference.outputs32
        return {name: outputs[name] for name in OUTPUTS if name in outputs}

    def _outputs(self) -> dict[str, np.ndarray]:
        outputs = self._port.model32(**self._reference.pair.port_inputs)
        return {name: outputs[name].numpy() for name in OUTPUTS if name in outputs}


class PrecisionBench(ForwardBench):
    """The float32 port alone, eager and compiled; the float64 one stays as it is.

    The place is the first tensor that is less exact.
    """

    def __init__(self, config: ModelConfig, weights: str, size: str, compiled: str) -> None:
        request = Request(config, weights, size=size, executions=("eager", compiled))
        self._options = self._measure(request).options

    @property
    def _models(self) -> list[Any]:
        return [self._port.model32]

    def _named(self, result: AuditResult) -> tuple[Named, ...]:
        found = less_exact(result)
        return (Named(found.path, found.key, (found.cause,)),) if found else places_of(result)


class Bfloat16Bench(ForwardBench):
    """The modules of the port alone under its mixed policy; the float64 one stays as it is."""

    def __init__(self, config: ModelConfig, weights: str, size: str) -> None:
        request = Request(config, weights, size=size, executions=(BFLOAT16,))
        self._options = self._measure(request).options
        self._sides = reference_sides(self._reference)

    @property
    def _models(self) -> list[Any]:
        return [self._port.bfloat16.model]

    def audit(self) -> Finding:
        """What the claim on modules that run alone in bfloat16 says of the port as it is now."""
        given = self._reference, self._port, self._options, self._sides
        return found_by("model", lambda: bfloat16_claims(*given))


def quietly() -> Steps:
    return Steps(total=0, quiet=True)


def places_of(result: AuditResult) -> tuple[Named, ...]:
    """The places that an audit of the forward pass names, with the causes that explain all."""
    return tuple(
        Named(
            one.path,
            one.edge,
            tuple(each.text for each in one.explanations if each.exact),
        )
        for one in result.localisations
    )
