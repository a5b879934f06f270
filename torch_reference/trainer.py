"""Trains a MaskFormer from its settings alone: data, updates, record, evaluation, checkpoints.

Equal settings and data give the same weights bit for bit, with one number of threads, whether the
run was interrupted or not. Mirrors `tf_impl/trainer.py`.
"""

import contextlib
import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import torch_reference
from maskformer.data.batching import BatchPlan
from maskformer.data.data_digest import data_sha256
from maskformer.data.evaluation_data import EvaluationData, open_data
from maskformer.metrics.run_scores import COUNTS, read_counts
from maskformer.model.config import ModelConfig
from maskformer.runs.event_files import EventWriter
from maskformer.runs.run_record import RunRecord
from maskformer.runs.run_settings import DTYPES, RunSettings, buckets, check_parts
from parity.errors import InputError
from torch_reference import micro_batches
from torch_reference.checkpointing import (
    Checkpoint,
    load_newest,
    optimizer_tensors,
    restore_optimizer,
    save,
)
from torch_reference.dataset import TrainingData, training_loader
from torch_reference.evaluation import evaluate
from torch_reference.initial_weights import load_initial
from torch_reference.optimizer import build_optimizer, rates_of_update
from torch_reference.replicas import Replicas
from torch_reference.schedule import SolverSchedule
from torch_reference.sentinels import sentinel_counts, sentinels
from torch_reference.train_step import Batch, StepResult, train_step

CHECKPOINTS = "checkpoints"
EVENTS = "tensorboard"

Progress = Callable[[int, str, Mapping[str, float]], None]
"""Called with the step, "train" or "eval", and the values of the row."""


@dataclass(frozen=True)
class Machine:
    """What a run uses and does not depend on, but for the threads, on which rounding depends."""

    device: str = "cpu"
    threads: int = 1
    workers: int = 0


@dataclass(frozen=True)
class Origin:
    """What the record says of a run's code: versions of packages, the commit, the command."""

    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    command: str | None = None


def run(
    settings: RunSettings,
    folder: Path,
    *,
    resume: bool = False,
    machine: Machine | None = None,
    replicas: Replicas | None = None,
    origin: Origin | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Trains until `settings.steps` updates are done; returns the scores of the final weights.

    `folder` receives the record (`maskformer.runs.run_record`), TensorBoard files, `checkpoints/`,
    and the counts of the last evaluation. With `resume`, a run that `folder` holds goes on from
    its newest whole checkpoint; the record keeps the `origin` that began it. All processes of
    `replicas` call this with equal arguments.
    Raises InputError for data, weights and folders that cannot be used, and a loss not finite.
    """
    return _Run(settings, Path(folder), machine or Machine(), replicas or Replicas()).train(
        resume, origin or Origin(), progress or (lambda step, split, values: None)
    )


class _Run:
    """One process's part of a training."""

    def __init__(
        self, settings: RunSettings, folder: Path, machine: Machine, replicas: Replicas
    ) -> None:
        self.settings, self.folder, self.machine = settings, folder, machine
        self.replicas = replicas
        check_parts(replicas.share(settings.batch), settings.micro_batches)
        if settings.dtype not in DTYPES:
            raise InputError(
                f"the PyTorch trainer does not train in {settings.dtype}",
                f"expected: one of {DTYPES}",
                "Mixed precision is the TensorFlow side's: parity train --side tf.",
            )
        entry = settings.entry
        self.config, self.inputs = entry.model, entry.inputs
        self.solver = settings.solver_config()
        source = Path(settings.data)
        self.images = open_data(source, settings.train_split, self.config).images
        self.evaluation: EvaluationData = open_data(source, settings.eval_split, self.config)
        self._data = TrainingData(self.images, self.inputs, settings.seed, settings.capacity)
        self.buckets = buckets(self.inputs)
        _make_deterministic(machine)
        torch.manual_seed(settings.seed)
        self.model = torch_reference.build(self.config)
        self.initial_sha256 = load_initial(self.model, settings.initial)
        self.dtype = getattr(torch, settings.dtype)
        self.model.to(machine.device, self.dtype).train()
        if not self.config.is_per_pixel:
            self.model.criterion.normalisation = settings.normalisation
        self.optimizer = build_optimizer(self.model, self.solver)
        parts = settings.micro_batches
        self._find = partial(micro_batches.forward_backward, count=parts) if parts > 1 else None
        # Processes draw other dropout masks: the first goes on with the seed of the initialisation.
        torch.manual_seed(settings.seed + replicas.rank)
        self.plan = self._new_plan({})
        self.step = 0

    def train(self, resume: bool, origin: Origin, progress: Progress) -> dict[str, float]:
        """See `run`."""
        checkpoint = load_newest(self.folder / CHECKPOINTS) if resume else None
        if checkpoint:
            self._restore(checkpoint)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.schedule = SolverSchedule(self.optimizer, self.solver, last_epoch=self.step - 1)
        with contextlib.ExitStack() as opened:
            self.progress = progress
            if self.replicas.is_first:
                description = self._description(origin)
                resume_step = self.step if resume else None
                self.record = opened.enter_context(
                    RunRecord.open(self.folder, description, resume_step)
                )
                events = EventWriter(self.folder / EVENTS, self.step + 1)
                self.events = opened.enter_context(contextlib.closing(events))
            self.replicas.gather(None)  # The others train only once the record could be opened.
            return self._loop()

    def _loop(self) -> dict[str, float]:
        settings = self.settings
        model: nn.Module = self.model
        if self.replicas.world > 1:
            model = DistributedDataParallel(self.model)
        batches = self._batches()
        scores: dict[str, float] | None = None
        clock = _Clock()
        while self.step < settings.steps:
            with clock.waiting():
                batch = next(batches)
            self.step += 1
            clock.steps += 1
            targets = _targets(batch, self.config)
            result = self._update(model, batch, targets)
            last = self.step == settings.steps
            if last or _due(self.step, settings.record_every):
                self._record_step(result, targets, batch["overflow"], clock)
                clock = _Clock()
            with clock.stopped():
                if last or _due(self.step, settings.eval_every):
                    scores = self._evaluate()
                if last or _due(self.step, settings.checkpoint_every):
                    self._save()
        return self._last_scores() if scores is None else scores

    def _last_scores(self) -> dict[str, float]:
        """Of a run that was already complete: what its last evaluation counted."""
        return read_counts(self.folder / COUNTS).values()

    def _update(self, model: nn.Module, batch: dict[str, Tensor], targets: Any) -> StepResult:
        """One update; raises InputError where a loss or the gradient is not finite."""
        images = batch["images"].to(self.dtype)
        try:
            whole = Batch(images, batch["sizes"], targets)
            result = train_step(model, self.optimizer, whole, self._find)
        except ValueError as error:
            # The assignment refuses costs that are not numbers.
            if "invalid numeric" not in str(error):
                raise
            raise self._diverged("the matching costs hold NaN or infinity") from None
        if not math.isfinite(float(result.total)) or not math.isfinite(float(result.gradient_norm)):
            parts = [f"{k} {float(v):g}" for k, v in result.losses.items() if not v.isfinite()]
            raise self._diverged(
                ", ".join([*parts, f"gradient norm {float(result.gradient_norm):g}"])
            )
        self._rates = rates_of_update(self.optimizer)
        self.schedule.step()
        return result

    def _diverged(self, evidence: str) -> InputError:
        return InputError(
            f"the training diverged at step {self.step}",
            evidence,
            "Lower the learning rate, or look for broken images; earlier checkpoints stand.",
        )

    def _record_step(
        self, result: StepResult, targets: Any, overflow: Tensor, clock: "_Clock"
    ) -> None:
        """Writes the row of this step: values of all processes together."""
        names = list(result.losses)
        losses = torch.stack([*(result.losses[name] for name in names), result.total]).double()
        means = (self.replicas.sum(losses.cpu()) / self.replicas.world).tolist()
        values = {"loss": means[-1], **dict(zip(names, means, strict=False))}
        values |= {
            **{f"learning_rate/{part}": rate for part, rate in self._rates.items()},
            "gradient_norm": float(result.gradient_norm),
        }
        if result.matching is not None:
            counts = sentinel_counts(result.outputs, targets, result.matching[0])
            values |= sentinels(self.replicas.sum(counts))
        values["overflow"] = float(self.replicas.sum(overflow.sum().double().cpu()))
        values |= {
            "examples_per_second": clock.steps * self.settings.batch / clock.seconds,
            "step_seconds": clock.seconds / clock.steps,
            "data_wait_share": clock.waited / clock.seconds,
            "memory_bytes": _memory_bytes(self.machine.device),
        }
        self._write("train", values)

    def _evaluate(self) -> dict[str, float]:
        counts = evaluate(self.model, self.config, self.inputs, self.evaluation, self.replicas)
        scores = counts.values()
        if self.replicas.is_first:
            counts.save(self.folder / COUNTS)
        self._write("eval", scores)
        return scores

    def _write(self, split: str, values: Mapping[str, float]) -> None:
        if not self.replicas.is_first:
            return
        self.record.write(self.step, split, values)
        self.events.scalars(self.step, values, f"{split}/")
        self.progress(self.step, split, values)

    def _save(self) -> None:
        """Writes a checkpoint; the others wait, so that none runs ahead of a failed write."""
        random = tuple(self.replicas.gather(_random_state(self.machine.device)))
        if self.replicas.is_first:
            checkpoint = Checkpoint(
                self.step,
                self.model.state_dict(),
                optimizer_tensors(self.optimizer),
                random,
                self.plan.state(),
                self.machine.threads,
            )
            save(self.folder / CHECKPOINTS, checkpoint, self.settings.keep)
        self.replicas.gather(None)

    def _restore(self, checkpoint: Checkpoint) -> None:
        if len(checkpoint.random) != self.replicas.world:
            raise InputError(
                f"the run has {len(checkpoint.random)} processes, now there are "
                f"{self.replicas.world}",
                "each continues with its own random state and share of the data",
                "Resume with the number it was started with.",
            )
        if checkpoint.threads != self.machine.threads:
            raise InputError(
                f"the run has {checkpoint.threads} threads per process, now there are "
                f"{self.machine.threads}",
                "sums are rounded in another order with another number",
                f"Resume with --threads {checkpoint.threads}.",
            )
        self.model.load_state_dict(checkpoint.model)
        restore_optimizer(self.optimizer, checkpoint.optimizer)
        _set_random_state(self.machine.device, checkpoint.random[self.replicas.rank])
        self.plan = self._new_plan(checkpoint.plan)
        self.step = checkpoint.step

    def _new_plan(self, state: Mapping[str, Any]) -> BatchPlan:
        copied = {key: dict(v) if isinstance(v, dict) else v for key, v in state.items()}
        return BatchPlan(self._shape_at, self.buckets, self.settings.batch, **copied)

    def _shape_at(self, position: int) -> tuple[int, int]:
        return self._data.shape_at(position)

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        """Batches on the device; `plan` is in step with them, however far a worker reads ahead."""
        loader = training_loader(
            self._data,
            batch_size=self.settings.batch,
            buckets=self.buckets,
            state=self.plan.state(),
            workers=self.machine.workers,
            rank=self.replicas.rank,
            world_size=self.replicas.world,
        )
        # Starting to read draws a number from the global generator, which a resumed run must not.
        random = torch.get_rng_state()
        batches = iter(loader)
        torch.set_rng_state(random)
        for batch in batches:
            next(self.plan)
            yield {key: value.to(self.machine.device) for key, value in batch.items()}

    def _description(self, origin: Origin) -> dict[str, Any]:
        return {
            "side": "torch",
            "settings": self.settings.to_dict(),
            "versions": dict(origin.versions),
            "data_sha256": data_sha256(self.images),
            "checkpoint_sha256": self.initial_sha256,
            "git_commit": origin.commit,
            "command": origin.command,
            "model_sha256": self.config.digest,
            "replicas": self.replicas.world,
            "threads": self.machine.threads,
            "device": self.machine.device,
        }


class _Clock:
    """Seconds of the steps since the last row, and of waiting for data among them."""

    def __init__(self) -> None:
        self.steps = 0
        self.waited = 0.0
        self._began = time.perf_counter()
        self._left_out = 0.0

    @property
    def seconds(self) -> float:
        """Time since the clock began, but for what was left out."""
        return time.perf_counter() - self._began - self._left_out

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the block as waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Leaves the block out."""
        start = time.perf_counter()
        yield
        self._left_out += time.perf_counter() - start


def _targets(batch: Mapping[str, Tensor], config: ModelConfig) -> Any:
    """The targets that `train_step.Batch` takes, from a batch of `training_loader`."""
    target_map, class_ids, valid = (batch[key] for key in ("target_map", "class_ids", "valid"))
    if config.is_per_pixel:
        labels = torch.take_along_dim(class_ids, target_map.clamp(min=0).flatten(1).long(), 1)
        labels = labels.reshape(target_map.shape)
        return torch.where(target_map >= 0, labels, config.ignore_value)
    counts = valid.sum(dim=1).tolist()
    numbers = torch.arange(class_ids.shape[1], dtype=target_map.dtype, device=target_map.device)
    return [
        {"labels": class_ids[b, :count], "masks": target_map[b] == numbers[:count, None, None]}
        for b, count in enumerate(counts)
    ]


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _make_deterministic(machine: Machine) -> None:
    """Fixes threads and algorithms; on a GPU operations without a fixed order only warn."""
    torch.set_num_threads(machine.threads)
    torch.use_deterministic_algorithms(True, warn_only=_is_gpu(machine.device))
    # Memory that nothing reads before it is written; filling it takes 6 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False


def _random_state(device: str) -> Tensor:
    """The state uint8 [N] of the generator that dropout draws from: the device's own."""
    return torch.cuda.get_rng_state(device) if _is_gpu(device) else torch.get_rng_state()


def _set_random_state(device: str, state: Tensor) -> None:
    if _is_gpu(device):
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _is_gpu(device: str) -> bool:
    return device.startswith("cuda")


def _memory_bytes(device: str) -> float:
    if _is_gpu(device):
        return float(torch.cuda.max_memory_allocated(device))
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
