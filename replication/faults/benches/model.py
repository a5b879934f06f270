"""Benches that compare whole models: the forward pass and its precision."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from maskformer.family import MASKFORMER
from maskformer.model.config import ModelConfig
from parity.faults import Named, conventional
from replication.console.progress import Steps
from replication.faults.benches.finding import Finding, broken
from replication.forward.precision_place import less_exact
from replication.forward.run import Request, build_port, judge_port, measure_reference

OUTPUTS = (MASKFORMER.outputs.classes, MASKFORMER.outputs.masks, MASKFORMER.outputs.pixels)


class ForwardBench:
    """The whole model on one synthetic image, forward."""

    def __init__(self, config: ModelConfig, weights: str, size: str) -> None:
        quiet = quietly()
        request = Request(config, weights, size=size, executions=("eager",))
        measured = measure_reference(request, quiet)
        self._port = build_port(measured, quiet)
        # The float32 models give only the outputs that customary checks look at.
        self._reference = dataclasses.replace(
            measured, request=dataclasses.replace(request, executions=())
        )

    @cached_property
    def modules(self) -> list[Mapping[str, Any]]:
        """Of both models of the port, float64 and float32: modules by path."""
        from parity.frameworks.tensorflow.modules import named_modules

        return [named_modules(model) for model in self._models]

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
        result = judge_port(self._reference, self._port, quietly(), predictions=False)
        claims = tuple(one["id"] for one in result["claims"] if one["verdict"] == "fails")
        return Finding(claims, self._named(result), conventional(outputs, self._expected()))

    def _named(self, result: Mapping[str, Any]) -> tuple[Named, ...]:
        return places_of(result)

    def _expected(self) -> dict[str, np.ndarray]:
        outputs = self._reference.outputs32
        return {name: outputs[name] for name in OUTPUTS if name in outputs}

    def _outputs(self) -> dict[str, np.ndarray]:
        from replication.sides.tf_side import port_inputs

        inputs = port_inputs(self._reference.batch, self._reference.sizes, "float32")
        outputs = self._port.model32(**inputs)
        return {name: outputs[name].numpy() for name in OUTPUTS if name in outputs}


class PrecisionBench(ForwardBench):
    """The float32 port alone, eager and as a graph; the float64 one stays as it is.

    The place is the first tensor that is less exact.
    """

    def __init__(self, config: ModelConfig, weights: str, size: str) -> None:
        quiet = quietly()
        request = Request(config, weights, size=size, executions=("eager", "graph"))
        self._reference = measure_reference(request, quiet)
        self._port = build_port(self._reference, quiet)

    @property
    def _models(self) -> list[Any]:
        return [self._port.model32]

    def _named(self, result: Mapping[str, Any]) -> tuple[Named, ...]:
        found = less_exact(result)
        return (Named(found.path, found.key, (found.cause,)),) if found else places_of(result)


def quietly() -> Steps:
    return Steps(total=0, quiet=True)


def places_of(result: Mapping[str, Any]) -> tuple[Named, ...]:
    """The places that an audit of the forward pass names, with the causes that explain all."""
    return tuple(
        Named(
            one["path"],
            one["edge"],
            tuple(each["text"] for each in one["explanations"] if each["exact"]),
        )
        for one in result["localisations"]
    )
