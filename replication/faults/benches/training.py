"""Benches that compare training: steps, dropout, schedules, replicas, the Model Garden's task."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from maskformer.model import zoo
from maskformer.model.config import ModelConfig
from maskformer.model.solver import SolverConfig
from parity.auditing.port import Port, given
from parity.auditing.reference import Reference, measure_reference
from parity.audits import judge_port
from parity.claims import Claim
from parity.faults import Named, conventional
from parity.training.trajectory import Update, compare_step, weight_gap
from parity.training.trajectory_causes import Prepare, place_and_causes
from replication.faults.benches.finding import Finding, broken, found_by, of_claims
from replication.faults.benches.model import places_of, quietly
from replication.forward.run import Case, Request, prepare


class TrainingBench:
    """One training step on synthetic images, float64."""

    def __init__(self, config: ModelConfig, solver: SolverConfig, weights: str, size: str) -> None:
        from maskformer.data.images import batch_images, parse_size, synthetic_image
        from replication.sides.tf_side import build_port
        from replication.sides.weights import load_weights
        from replication.training import reference as training_reference

        shapes = [parse_size(one) for one in size.split(",")]
        images, sizes = batch_images(
            [synthetic_image(*shape, index) for index, shape in enumerate(shapes)], config
        )
        loaded = load_weights(weights, config)
        self._request = Request(config, weights, size=size, executions=())
        self._reference = training_reference.reference_step(
            config, solver, loaded, images, sizes, quietly()
        )
        self._model = build_port(config, loaded, "float64")

    @cached_property
    def modules(self) -> list[Mapping[str, Any]]:
        """The port's modules by path."""
        from parity.frameworks.tensorflow.modules import named_modules

        return [named_modules(self._model, private=False)]

    @cached_property
    def variables(self) -> list[Mapping[str, tuple[Any, Any]]]:
        """The port's variables and their layouts by state-dict key."""
        from weight_conversion.layouts import tf_variables

        return [tf_variables(self._model)]

    def audit(self) -> Finding:
        """What the training claims say of the port as it is now."""
        from replication.training import port as training_port
        from replication.training import step as training_audit

        try:
            step = training_port.port_step(self._reference, self._model)
        except Exception as error:
            return broken("training step", error)
        claims = training_audit.step_claims(self._reference, step, "")
        losses = {name: np.array(float(value)) for name, value in step.found.losses.items()}
        expected = {name: np.array(value) for name, value in self._reference.losses.items()}
        found = of_claims(claims, conventional(losses, expected))
        if found.claims and not found.named:  # all is inherited from the forward pass
            reference, case = self._forward
            port = Port(given(self._model, "float64"))
            named = places_of(judge_port(reference, port, case.options, quietly()))
            return dataclasses.replace(found, named=named)
        return found

    @cached_property
    def _forward(self) -> tuple[Reference, Case]:
        """The reference's forward pass, for faults that the training step inherits."""
        case = prepare(self._request, quietly())
        return measure_reference(case.pair, case.options, quietly()), case


class TaskBench(TrainingBench):
    """What the Model Garden's task makes of a batch and of the gradients of a step."""

    @cached_property
    def _step(self) -> Any:
        """A step of the sound port: the first audit is of that."""
        from replication.training.port import port_step

        return port_step(self._reference, self._model)

    def audit(self) -> Finding:
        """What the claims on the update and the task say of the port as it is now."""
        from replication.training.task import task_claim
        from replication.training.update import update_claim

        step = self._step

        def judged() -> list[Claim]:
            update = update_claim(self._reference, step, "")
            return [update, task_claim(self._reference, step, update, "")]

        return found_by("task", judged)


class DropoutBench(TrainingBench):
    """The forward pass in training mode, both sides fed the same masks."""

    def audit(self) -> Finding:
        """What the claim on dropout says of the port as it is now."""
        from replication.training.dropout import dropout_claims

        return found_by("training step", lambda: dropout_claims(self._reference, self._model, ""))


class StepsBench:
    """Two training steps of each side, the port's as a graph; what one step cannot show."""

    def __init__(self, config: ModelConfig, solver: SolverConfig, weights: str, size: str) -> None:
        from replication.sides.weights import load_weights
        from replication.training import trajectory

        solver = dataclasses.replace(solver, base_lr=trajectory.CALM_RATE, warmup_iters=0)
        self._request = trajectory.Request(config, solver, steps=2, size=size, weights=weights)
        self._weights = load_weights(weights, config)
        self._expected = self._reference(None)
        self._twin = self._reference(0)

    def _reference(self, seed: int | None) -> list[tuple[Any, Any]]:
        from replication.training.trajectory import reference_run

        return self._steps(reference_run(self._request, self._weights, "float64", seed))

    def _again(self, prepare: Prepare) -> Mapping[str, np.ndarray]:
        """The reference's weights after the last step, with what is called before each."""
        from replication.training.trajectory import batches, reference_run

        run = reference_run(self._request, self._weights, "float64")
        for number, batch in enumerate(batches(self._request)):
            prepare(run.optimizer, number)
            run.step(*batch)
        return run.weights()

    def _steps(self, run: Any) -> list[tuple[Any, Any]]:
        """What each step gives, and the weights after it."""
        from replication.training import trajectory

        found = []
        for batch in trajectory.batches(self._request):
            one = run.step(*batch)
            found.append((one, {key: value.copy() for key, value in run.weights().items()}))
        return found

    def audit(self) -> Finding:
        """What the claims on a trajectory say of the port as it is now."""
        from replication.training import trajectory
        from replication.training.trajectory import port_run

        try:
            ours = self._steps(port_run(self._request, self._weights, "float64"))
        except Exception as error:
            return broken("training step", error)
        steps = []
        for number, (theirs, after) in enumerate(self._expected):
            gaps = {
                name: compare_step(found[number][0], theirs, weight_gap(found[number][1], after))
                for name, found in (("twin", self._twin), ("port", ours))
            }
            parts = {name: theirs[name] for name in ("total", "losses", "norm")}
            steps.append(Update(step=number, **parts, **gaps))
        claims = trajectory.float64_claims(self._request, steps)
        failed = [one for one in claims if one.verdict == "fails"]
        if not failed:
            return Finding((), (), {})
        start = {key: one.astype(np.float64) for key, one in self._weights.state.items()}
        begun = {key: start[key] for key in self._expected[-1][1]}
        place, causes = place_and_causes(steps, (begun, ours[-1][1]), self._again)
        total, exact = (found[0][0]["total"] for found in (ours, self._expected))
        if total != exact and total == float(np.float32(total)):
            place, causes = ("loss", "step 0: total"), ("the total loss is rounded to float32",)
        return Finding(tuple(one.id for one in failed), (Named(*place, causes),), {})


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
        from replication.training.rates import rate_claims

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
        from replication.training.replica_losses import losses_claim
        from replication.training.replicas import reduction_claim, shares_claim

        claims = [
            losses_claim(self._config, "", self.prepare),
            reduction_claim(self._solver, "", self.prepare),
            shares_claim("", self.prepare),
        ]
        return of_claims(claims, {})
