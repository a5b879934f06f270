"""The cases that faults are planted in: the reference measured once, the port judged each time."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from maskformer import zoo
from maskformer.config import ModelConfig, ResNetConfig, SwinConfig
from maskformer.detectron2_config import entry_of
from maskformer.solver import SolverConfig
from parity.faults import Named, conventional
from replication.audit_run import (
    PortSide,
    ReferenceSide,
    Request,
    build_port,
    judge_port,
    measure_reference,
)
from replication.bench_finding import Finding, broken, of_claims
from replication.precision_place import less_exact
from replication.progress import Steps

WEIGHTS = "seeded:5"
SEMANTIC, PER_PIXEL = "ade20k_r50", "ade20k_pp"
OUTPUTS = ("pred_logits", "pred_masks", "sem_seg")
SWIN = SwinConfig(
    embed_dim=16, num_heads=(2, 2, 2, 2), window_size=5, depths=(2, 2, 1, 1), drop_path_rate=0.0
)

SMALLER, PARTIAL, DROP_PATH = (16, 24), 2, 0.3


class ForwardBench:
    """The whole model on one synthetic image, forward."""

    def __init__(self, config: ModelConfig, weights: str, size: str) -> None:
        quiet = _quiet()
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
        result = judge_port(self._reference, self._port, _quiet(), predictions=False)
        claims = tuple(one["id"] for one in result["claims"] if one["verdict"] == "fails")
        return Finding(claims, self._named(result), conventional(outputs, self._expected()))

    def _named(self, result: Mapping[str, Any]) -> tuple[Named, ...]:
        return _places(result)

    def _expected(self) -> dict[str, np.ndarray]:
        outputs = self._reference.outputs32
        return {name: outputs[name] for name in OUTPUTS if name in outputs}

    def _outputs(self) -> dict[str, np.ndarray]:
        from replication import pair

        inputs = pair.port_inputs(self._reference.batch, self._reference.sizes, "float32")
        outputs = self._port.model32(**inputs)
        return {name: outputs[name].numpy() for name in OUTPUTS if name in outputs}


class PrecisionBench(ForwardBench):
    """The float32 port alone, eager and as a graph; the float64 one stays as it is.

    The place is the first tensor that is less exact.
    """

    def __init__(self, config: ModelConfig, weights: str, size: str) -> None:
        quiet = _quiet()
        request = Request(config, weights, size=size, executions=("eager", "graph"))
        self._reference = measure_reference(request, quiet)
        self._port = build_port(self._reference, quiet)

    @property
    def _models(self) -> list[Any]:
        return [self._port.model32]

    def _named(self, result: Mapping[str, Any]) -> tuple[Named, ...]:
        found = less_exact(result)
        return (Named(found.path, found.key, (found.cause,)),) if found else _places(result)


class TrainingBench:
    """One training step on synthetic images, float64."""

    def __init__(self, config: ModelConfig, solver: SolverConfig, weights: str, size: str) -> None:
        from maskformer.images import batch_images, parse_size, synthetic_image
        from replication import pair, training_reference

        shapes = [parse_size(one) for one in size.split(",")]
        images, sizes = batch_images(
            [synthetic_image(*shape, index) for index, shape in enumerate(shapes)], config
        )
        loaded = pair.load_weights(weights, config)
        self._request = Request(config, weights, size=size, executions=())
        self._reference = training_reference.reference_step(
            config, solver, loaded, images, sizes, _quiet()
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
        from replication import training_audit, training_port

        try:
            step = training_port.port_step(self._reference, self._model)
        except Exception as error:
            return broken("training step", error)
        claims = training_audit.step_claims(self._reference, step, "")
        losses = {name: np.array(float(value)) for name, value in step.found.losses.items()}
        expected = {name: np.array(value) for name, value in self._reference.losses.items()}
        found = of_claims(claims, conventional(losses, expected))
        if found.claims and not found.named:  # all is inherited from the forward pass
            named = _places(
                judge_port(self._forward, PortSide(self._model), _quiet(), predictions=False)
            )
            return dataclasses.replace(found, named=named)
        return found

    @cached_property
    def _forward(self) -> ReferenceSide:
        """The reference's forward pass, for faults that the training step inherits."""
        return measure_reference(self._request, _quiet())


class TaskBench(TrainingBench):
    """What the Model Garden's task makes of a batch and of the gradients of a step."""

    @cached_property
    def _step(self) -> Any:
        """A step of the sound port: the first audit is of that."""
        from replication.training_port import port_step

        return port_step(self._reference, self._model)

    def audit(self) -> Finding:
        """What the claims on the update and the task say of the port as it is now."""
        from replication.training_task import task_claim
        from replication.training_update import update_claim

        step = self._step
        try:
            update = update_claim(self._reference, step, "")
            claims = [update, task_claim(self._reference, step, update, "")]
        except Exception as error:
            return broken("task", error)
        return of_claims(claims, {})


class DropoutBench(TrainingBench):
    """The forward pass in training mode, both sides fed the same masks."""

    def audit(self) -> Finding:
        """What the claim on dropout says of the port as it is now."""
        from replication import training_audit

        try:
            claims = training_audit.dropout_claims(self._reference, self._model, "")
        except Exception as error:
            return broken("training step", error)
        return of_claims(claims, {})


class StepsBench:
    """Two training steps of each side, the port's as a graph; what one step cannot show."""

    def __init__(self, config: ModelConfig, solver: SolverConfig, weights: str, size: str) -> None:
        from replication import pair, trajectory

        solver = dataclasses.replace(solver, base_lr=trajectory.CALM_RATE, warmup_iters=0)
        self._request = trajectory.Request(config, solver, steps=2, size=size, weights=weights)
        self._weights = pair.load_weights(weights, config)
        self._expected = self._reference(None)
        self._twin = self._reference(0)

    def _reference(self, seed: int | None) -> list[tuple[Any, Any]]:
        from replication import trajectory

        return self._steps(trajectory.ReferenceRun(self._request, self._weights, "float64", seed))

    def _steps(self, run: Any) -> list[tuple[Any, Any]]:
        """What each step gives, and the weights after it."""
        from replication import trajectory

        found = []
        for batch in trajectory.batches(self._request):
            one = run.step(*batch)
            found.append((one, {key: value.copy() for key, value in run.weights().items()}))
        return found

    def audit(self) -> Finding:
        """What the claims on a trajectory say of the port as it is now."""
        from replication import trajectory, trajectory_causes

        try:
            ours = self._steps(trajectory.PortRun(self._request, self._weights, "float64"))
        except Exception as error:
            return broken("training step", error)
        steps = []
        for number, (theirs, after) in enumerate(self._expected):
            row = {"step": number, "total": theirs["total"], "losses": theirs["losses"]}
            for name, found in (("twin", self._twin), ("port", ours)):
                gap = trajectory.weight_gap(found[number][1], after)
                row[name] = trajectory.compare_step(found[number][0], theirs, gap)
            steps.append(row)
        claims = trajectory.float64_claims(self._request, steps)
        failed = [one for one in claims if one["verdict"] == "fails"]
        if not failed:
            return Finding((), (), {})
        place, causes = trajectory_causes.place_and_causes(
            self._request, self._weights, ours, self._expected, steps
        )
        return Finding(tuple(one["id"] for one in failed), (Named(*place, causes),), {})


class ScheduleBench:
    """Rates and updates of published solvers, and of what a detectron2 config may have besides."""

    ENTRIES = ("coco_r50", "coco_swin_tiny", "ade20k_r50", "ade20k_swin_tiny")
    OTHERWISE: Mapping[str, Any] = {
        "optimizer": "SGD",
        "steps": (60_000, 80_000),
        "max_iter": 90_000,
        "warmup_iters": 1000,
        "warmup_factor": 0.1,
        "warmup_method": "constant",
    }

    def audit(self) -> Finding:
        """What the claims on the schedules say, and on what the optimizers make of them."""
        from replication.training_rates import rate_claims

        solvers = [zoo.get(name).solver for name in self.ENTRIES]
        others = [dataclasses.replace(one, **self.OTHERWISE) for one in (solvers[0], solvers[2])]
        claims = [one for solver in (*solvers, *others) for one in rate_claims(solver, "")]
        return of_claims(claims, {})


class ReplicaBench:
    """Two replicas, in a process of their own that calls `prepare` first."""

    prepare: Any = None

    def __init__(self, config: ModelConfig, solver: SolverConfig) -> None:
        self._config, self._solver = config, solver

    def audit(self) -> Finding:
        """What the claims on the losses of replicas, their shares and their reduction say."""
        from replication.training_replica_losses import losses_claim
        from replication.training_replicas import reduction_claim, shares_claim

        claims = [
            losses_claim(self._config, "", self.prepare),
            reduction_claim(self._solver, "", self.prepare),
            shares_claim("", self.prepare),
        ]
        return of_claims(claims, {})


def _quiet() -> Steps:
    return Steps(total=0, quiet=True)


def _places(result: Mapping[str, Any]) -> tuple[Named, ...]:
    """The places that an audit of the forward pass names, with the causes that explain all."""
    return tuple(
        Named(
            one["path"],
            one["edge"],
            tuple(each["text"] for each in one["explanations"] if each["exact"]),
        )
        for one in result["localisations"]
    )


def _forward(config: str, size: str) -> ForwardBench:
    return ForwardBench(entry_of(config).model, WEIGHTS, size)


def _swin(config: str, size: str) -> ForwardBench:
    """Two images, whose sides are no multiple of a patch, and a Swin backbone, if a small one."""
    return ForwardBench(_with_swin(entry_of(config).model), WEIGHTS, _two(size, PARTIAL))


def _with_swin(model: ModelConfig) -> ModelConfig:
    if isinstance(model.backbone, SwinConfig):
        return model
    return dataclasses.replace(model, backbone=SWIN)


def _batch(config: str, size: str) -> ForwardBench:
    return _forward(config, _two(size))


def _two(size: str, less: int = 0) -> str:
    """The sizes of two images, `less` than `size`, of which the second is smaller and padded."""
    from maskformer.images import parse_size

    height, width = (side - less for side in parse_size(size))
    return f"{size},{height - SMALLER[0]}x{width - SMALLER[1]}"


def _dropout(config: str, size: str) -> DropoutBench:
    """A configuration whose backbone drops no path is given a small Swin that does."""
    entry = entry_of(config)
    model = entry.model
    if getattr(model.backbone, "drop_path_rate", 0.0) == 0.0:
        model = dataclasses.replace(
            model, backbone=dataclasses.replace(SWIN, drop_path_rate=DROP_PATH)
        )
    return DropoutBench(model, entry.solver, WEIGHTS, f"{size},{size}")


def _training_swin(config: str, size: str) -> TrainingBench:
    entry = entry_of(config)
    return TrainingBench(_with_swin(entry.model), entry.solver, WEIGHTS, size)


def _training_variant(config: str, size: str) -> TrainingBench:
    """What the model has that its usual settings do not use."""
    entry = entry_of(config)
    changes: dict[str, Any] = {
        "predictor": dataclasses.replace(
            entry.model.predictor, dec_layers=3, enc_layers=1, pre_norm=True
        )
    }
    if isinstance(entry.model.backbone, ResNetConfig):
        changes["backbone"] = dataclasses.replace(entry.model.backbone, res5_dilation=2)
    model = dataclasses.replace(entry.model, **changes)
    return TrainingBench(model, entry.solver, WEIGHTS, size)


def _task(config: str, size: str) -> TaskBench:
    entry = entry_of(config)
    return TaskBench(entry.model, entry.solver, WEIGHTS, _two(size))


def _steps(config: str, size: str) -> StepsBench:
    entry = entry_of(config)
    return StepsBench(entry.model, entry.solver, WEIGHTS, size)


def _training(config: str, size: str) -> TrainingBench:
    entry = entry_of(config)
    return TrainingBench(entry.model, entry.solver, WEIGHTS, size)


def _inference(config: str, size: str) -> Any:
    from replication.inference_bench import InferenceBench

    model = entry_of(config).model
    panoptic = model if model.inference.panoptic_on else zoo.model_config("tiny")
    return InferenceBench(panoptic, zoo.model_config(SEMANTIC), zoo.model_config(PER_PIXEL))


def _data(config: str, size: str) -> Any:
    from replication.data_bench import DataBench

    return DataBench()


def _evaluation(config: str, size: str) -> Any:
    from replication.evaluation_bench import EvaluationBench

    return EvaluationBench()


BENCHES: Mapping[str, Callable[[str, str], Any]] = {
    "model": _forward,
    "swin": _swin,
    "precision": lambda config, size: PrecisionBench(entry_of(config).model, WEIGHTS, size),
    "training": _training,
    "training_batch": lambda config, size: _training(config, _two(size)),
    "training_swin": _training_swin,
    "training_variant": _training_variant,
    "training_per_pixel": lambda config, size: _training(PER_PIXEL, _two(size)),
    "task": _task,
    "schedule": lambda config, size: ScheduleBench(),
    "replicas": lambda config, size: ReplicaBench(entry_of(config).model, entry_of(config).solver),
    "batch": _batch,
    "dropout": _dropout,
    "steps": _steps,
    "data": _data,
    "evaluation": _evaluation,
    "inference": _inference,
}
"""What builds each bench, from the name of a zoo configuration and the size of its image."""
