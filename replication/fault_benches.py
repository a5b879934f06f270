"""The cases that faults are planted in: the reference measured once, the port judged each time."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from maskformer import zoo
from maskformer.config import ModelConfig, SwinConfig
from maskformer.solver import SolverConfig
from parity.faults import Named, conventional
from replication.audit_run import Request, build_port, judge_port, measure_reference
from replication.progress import Steps

WEIGHTS = "seeded:5"
SEMANTIC, PER_PIXEL = "ade20k_r50", "ade20k_pp"
OUTPUTS = ("pred_logits", "pred_masks")
SWIN = SwinConfig(
    embed_dim=16, num_heads=(2, 2, 2, 2), window_size=4, depths=(2, 2, 1, 1), drop_path_rate=0.0
)


@dataclass(frozen=True)
class Finding:
    """What an audit said: the claims that fail, the places it names, what others would notice."""

    claims: tuple[str, ...]
    named: tuple[Named, ...]
    noticed: Mapping[str, bool]


class ForwardBench:
    """The whole model on one synthetic image, forward."""

    def __init__(self, config: ModelConfig, weights: str, size: str) -> None:
        quiet = Steps(total=0, quiet=True)
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
        from parity.capture_tf import named_modules

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
        result = judge_port(
            self._reference, self._port, Steps(total=0, quiet=True), predictions=False
        )
        claims = tuple(one["id"] for one in result["claims"] if one["verdict"] == "fails")
        named = tuple(
            Named(
                one["path"],
                one["edge"],
                tuple(e["text"] for e in one["explanations"] if e["exact"]),
            )
            for one in result["localisations"]
        )
        return Finding(claims, named, conventional(outputs, self._expected()))

    def _expected(self) -> dict[str, np.ndarray]:
        return {name: self._reference.outputs32[name] for name in OUTPUTS}

    def _outputs(self) -> dict[str, np.ndarray]:
        from replication import pair

        inputs = pair.port_inputs(self._reference.batch, self._reference.sizes, "float32")
        outputs = self._port.model32(**inputs)
        return {name: outputs[name].numpy() for name in OUTPUTS if name in outputs}


class TrainingBench:
    """One training step on one synthetic image, float64."""

    def __init__(self, config: ModelConfig, solver: SolverConfig, weights: str, size: str) -> None:
        from maskformer.images import batch_images, parse_size, synthetic_image
        from replication import pair, training_reference

        images, sizes = batch_images([synthetic_image(*parse_size(size), 0)], config)
        loaded = pair.load_weights(weights, config)
        self._reference = training_reference.reference_step(
            config, solver, loaded, images, sizes, Steps(total=0, quiet=True)
        )
        self._model = pair.build_port(config, loaded, "float64")

    @cached_property
    def modules(self) -> list[Mapping[str, Any]]:
        """The port's modules by path."""
        from parity.capture_tf import named_modules

        return [named_modules(self._model)]

    @cached_property
    def variables(self) -> list[Mapping[str, tuple[Any, Any]]]:
        """The port's variables and their layouts by state-dict key."""
        from weight_conversion.layouts import tf_variables

        return [tf_variables(self._model)]

    def audit(self) -> Finding:
        """What the training claims say of the port as it is now."""
        from replication import training_audit

        try:
            step = training_audit.port_step(self._reference, self._model)
        except Exception as error:
            return broken("training step", error)
        claims = training_audit.step_claims(self._reference, step, "")
        losses = {name: np.array(float(value)) for name, value in step.found.losses.items()}
        expected = {name: np.array(value) for name, value in self._reference.losses.items()}
        return of_claims(claims, conventional(losses, expected))


class ScheduleBench:
    """The learning rates of published solvers: both rules, with and without a real warm-up."""

    ENTRIES = ("coco_r50", "coco_swin_tiny", "ade20k_r50", "ade20k_swin_tiny")

    def audit(self) -> Finding:
        """What the claims on the schedules say."""
        from replication.training_audit import schedule_claim

        claims = [schedule_claim(zoo.get(name).solver, "") for name in self.ENTRIES]
        return of_claims(claims, {})


class ReplicaBench:
    """Two replicas, in a process of their own that calls `prepare` first."""

    prepare: Any = None

    def __init__(self, solver: SolverConfig) -> None:
        self._solver = solver

    def audit(self) -> Finding:
        """What the claim on the reduction over replicas says."""
        from replication.training_replicas import reduction_claim

        return of_claims([reduction_claim(self._solver, "", self.prepare)], {})


def broken(place: str, error: Exception) -> Finding:
    """What is said of a port that cannot be run, which every check notices."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    names = conventional({}, {"": np.zeros(1)})
    return Finding(("runs",), (Named(place, f"{place}: {text}"),), dict.fromkeys(names, True))


def of_claims(claims: Sequence[Mapping[str, Any]], noticed: Mapping[str, bool]) -> Finding:
    """The claims that fail, and the places they name; what is only inherited names no place."""
    failed = [one for one in claims if one["verdict"] == "fails"]
    named = []
    for one in failed:
        place = one["place"]
        if not place.startswith("inherited"):
            causes = one.get("causes") or ([one["cause"]] if one["cause"] else [])
            named.append(Named(re.split("[:,]", place)[0], place, tuple(causes)))
    return Finding(tuple(one["id"] for one in failed), tuple(named), noticed)


def _forward(config: str, size: str) -> ForwardBench:
    return ForwardBench(zoo.get(config).model, WEIGHTS, size)


def _swin(config: str, size: str) -> ForwardBench:
    """A configuration that has no Swin backbone is given a small one."""
    model = zoo.get(config).model
    if not isinstance(model.backbone, SwinConfig):
        model = dataclasses.replace(model, backbone=SWIN)
    return ForwardBench(model, WEIGHTS, size)


def _training(config: str, size: str) -> TrainingBench:
    entry = zoo.get(config)
    return TrainingBench(entry.model, entry.solver, WEIGHTS, size)


def _inference(config: str, size: str) -> Any:
    from replication.host_benches import InferenceBench

    model = zoo.get(config).model
    panoptic = model if model.inference.panoptic_on else zoo.model_config("tiny")
    return InferenceBench(panoptic, zoo.model_config(SEMANTIC), zoo.model_config(PER_PIXEL))


def _data(config: str, size: str) -> Any:
    from replication.host_benches import DataBench

    return DataBench()


BENCHES: Mapping[str, Callable[[str, str], Any]] = {
    "model": _forward,
    "swin": _swin,
    "training": _training,
    "schedule": lambda config, size: ScheduleBench(),
    "replicas": lambda config, size: ReplicaBench(zoo.get(config).solver),
    "data": _data,
    "inference": _inference,
}
"""What builds each bench, from the name of a zoo configuration and the size of its image."""
