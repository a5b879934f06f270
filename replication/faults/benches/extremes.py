"""Benches of what only extreme numbers and float32 show: modules alone, losses, training steps."""

from typing import Any

from maskformer.model.config import ModelConfig
from maskformer.model.solver import SolverConfig
from parity.auditing.extremes import extreme_claims
from parity.claims import Claim
from parity.judge import MIXED
from replication.faults.benches.finding import Finding, found_by
from replication.faults.benches.model import ForwardBench
from replication.faults.benches.training import TrainingBench
from replication.forward.run import Request

EXECUTION = "graph"  # in which float32 training is judged; eager has no program of its own


class ExtremeBench(ForwardBench):
    """Every module of the port alone on extreme inputs, float64 and float32."""

    def __init__(self, config: ModelConfig, weights: str, size: str) -> None:
        request = Request(config, weights, size=size, executions=("eager",), extreme=True)
        self._options = self._measure(request).options
        self._known: dict[str, dict] = {"float64": {}, "float32": {}}

    def audit(self) -> Finding:
        """What the claims on extreme inputs say of the port as it is now."""
        given = self._reference, self._port, self._options, self._known
        return found_by("model", lambda: extreme_claims(*given))


class ExtremeLossBench(TrainingBench):
    """The losses of extreme outputs, their gradients, and costs, float64."""

    def __init__(self, config: ModelConfig, solver: SolverConfig, weights: str, size: str) -> None:
        from replication.training import port, precision

        super().__init__(config, solver, weights, size)
        self._step = precision.as_engine(self._reference)
        self._ported = port.port_step(self._reference, self._model)

    def audit(self) -> Finding:
        """What the claims on extreme outputs say of the port as it is now."""
        from replication.training import precision
        from replication.training.matching import cost_claim

        def judged() -> list[Claim]:
            costs = cost_claim(self._reference, self._ported.batch.targets, "")
            return [costs, *precision.extreme_claims(self._step, self._ported, "")]

        return found_by("criterion", judged)


class PrecisionStepBench(TrainingBench):
    """One training step of the port in float32, as a graph: costs, losses, gradients, update."""

    def __init__(self, config: ModelConfig, solver: SolverConfig, weights: str, size: str) -> None:
        from parity.training.updates import measure_update32
        from replication.sides.weights import load_weights
        from replication.training import precision

        super().__init__(config, solver, weights, size)
        self._step = precision.as_engine(self._reference)
        loaded = load_weights(weights, config)
        single = precision.single(self._reference, self._step, loaded)
        self._measured = single, measure_update32(self._step, single.side)
        self._ported = precision.port32(self._reference, loaded)
        self._model = self._ported[0].model

    def audit(self) -> Finding:
        """What the float32 claims say of the port as it is now."""
        from replication.training import precision

        given: Any = self._reference, self._step, self._measured, self._ported
        return found_by("training step", lambda: precision.judged(*given, (EXECUTION,), ""))


class Bfloat16StepBench(TrainingBench):
    """What the parts of a training step do alone under the port's mixed policy: costs, losses and
    what they pass back, the update."""

    def __init__(self, config: ModelConfig, solver: SolverConfig, weights: str, size: str) -> None:
        from replication.sides.tf_side import TENSORFLOW
        from replication.sides.weights import load_weights
        from replication.training import bfloat16, precision

        super().__init__(config, solver, weights, size)
        loaded = load_weights(weights, config)
        step = precision.as_engine(self._reference)
        self._held = bfloat16.measured(self._reference, step, loaded)
        self._model = TENSORFLOW.build(config, loaded, MIXED)

    def audit(self) -> Finding:
        """What the claims on bfloat16 say of the port as it is now."""
        from replication.training.bfloat16 import alone_claims

        return found_by("training step", lambda: alone_claims(self._held, self._model, ""))
