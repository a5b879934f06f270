"""Orbit's trainer with a loop on the host: batches of several shapes, timed waits, and a record."""

import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orbit
import tensorflow as tf
from official.core import base_trainer

from maskformer.runs.run_record import SCORES
from parity.errors import InputError
from tf_impl.model_garden.task import MaskFormerTask
from tf_impl.optimizer import rates_of_last_update
from tf_impl.sentinels import sentinels
from tf_impl.storage.run_folder import RunFolder

Progress = Callable[[int, str, Mapping[str, float]], None]
"""Called with the step, "train" or "eval", and the values of the row."""


class Trainer(base_trainer.Trainer):
    """Trains and evaluates a `MaskFormerTask`; a row is recorded at the end of every loop.

    A row has the values of the loop's last step. One step is one call of a compiled function per
    shape of a batch. A loss that is not finite ends the run with an InputError.
    """

    def __init__(
        self,
        config: Any,
        task: MaskFormerTask,
        *,
        record: RunFolder | None,
        progress: Progress | None = None,
        restore_from: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Arguments of the Model Garden's trainer, and:

        record: where rows go, None on processes that do not write; progress: is told them;
        restore_from: prefix of the checkpoint that the run continues from.
        """
        self._record, self._progress = record, progress
        self._solver = task.solver(config.trainer.optimizer_config)
        self._restored = restore_from is not None
        self._logs: dict[str, tf.Tensor] = {}
        self._waited = self._began = 0.0
        self._begun_at = 0
        super().__init__(config, task, **kwargs)
        if restore_from:
            # Every process reads it: Orbit gives all but the first another folder of checkpoints.
            self.checkpoint.restore(restore_from).assert_existing_objects_matched()
        self._evaluate = self._evaluation_function()

    def initialize(self) -> None:
        """Orbit's callback where it finds no checkpoint: loads the task's initial weights."""
        if not self._restored:
            super().initialize()

    def train_loop_begin(self) -> None:
        self._waited, self._began = 0.0, time.perf_counter()
        self._begun_at = int(self.global_step.numpy())

    def create_train_loop_fn(self) -> Callable[[Iterator[Any], tf.Tensor], None]:
        """A loop that waits for each batch outside the step, so that the wait is known."""
        step = self._step
        if self.config.trainer.train_tf_function:
            # Nothing in the step needs AutoGraph, which would take longer than the tracing.
            step = tf.function(step, autograph=False)

        def loop(iterator: Iterator[Any], num_steps: tf.Tensor) -> None:
            for _ in range(int(num_steps)):
                before = time.perf_counter()
                inputs = next(iterator)
                self._waited += time.perf_counter() - before
                self._logs = step(inputs)

        return loop

    def _step(self, inputs: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """One update on all replicas; logs of the first, which are those of all."""
        on_tpu = isinstance(self.strategy, tf.distribute.TPUStrategy)

        def replica_step(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            def update(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
                return self.task.train_step(inputs, self.model, self.optimizer)

            if self.config.runtime.enable_xla and not on_tpu:
                update = tf.function(update, jit_compile=True, autograph=False)
            logs = update(inputs)
            self.global_step.assign_add(1)
            return logs

        logs = self.strategy.run(replica_step, args=(inputs,), options=self._runtime_options)
        return {name: self._first(value) for name, value in logs.items()}

    def _first(self, value: Any) -> tf.Tensor:
        return self.strategy.experimental_local_results(value)[0]

    def train_loop_end(self) -> dict[str, float]:
        """The row's values, for Orbit's summaries; raises InputError for a loss not finite."""
        logs = {name: float(value) for name, value in self._logs.items()}
        seconds = time.perf_counter() - self._began
        step = int(self.global_step.numpy())
        done = step - self._begun_at
        loss = logs[self.task.loss]
        if not math.isfinite(loss):
            raise InputError(
                f"the loss is {loss} after {step} steps",
                ", ".join(f"{k} {v:g}" for k, v in logs.items() if not math.isfinite(v))[:300],
                "Lower the learning rate, or look for broken images; the last checkpoint stands.",
            )
        values = {name: value for name, value in logs.items() if name.startswith("loss")}
        values |= {
            **{
                f"learning_rate/{part}": rate
                for part, rate in rates_of_last_update(self.optimizer, self.model).items()
            },
            "gradient_norm": logs["gradient_norm"],
            "overflow": logs["overflow"],
            "examples_per_second": done * self._solver.ims_per_batch / seconds,
            "step_seconds": seconds / done,
            "data_wait_share": self._waited / seconds,
            "memory_bytes": _memory_bytes(),
        }
        if "pairs" in logs:
            values |= sentinels(logs)
        self._write(step, "train", values)
        return values

    def _write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        if self._record:
            self._record.write(step, split, values)
        if self._progress:
            self._progress(step, split, values)

    def was_evaluated(self, step: int) -> bool:
        """Whether the record has the scores after `step` steps."""
        return self._record is None or step in self._record.evaluated

    def eval_step(self, iterator: Iterator[Any]) -> dict[str, tuple[tf.Tensor, ...]]:
        """The outputs of all local replicas, by name."""
        return self._evaluate(next(iterator))

    def _evaluation_function(self) -> Callable[[Any], dict[str, tuple[tf.Tensor, ...]]]:
        """Compiled once per bucket; eager without buckets, where every image has its own shape."""

        def replica_step(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return self.task.validation_step(inputs, self.model)

        def evaluate(inputs: Any) -> dict[str, tuple[tf.Tensor, ...]]:
            outputs = self.strategy.run(replica_step, args=(inputs,))
            return {
                name: self.strategy.experimental_local_results(value)
                for name, value in outputs.items()
            }

        compiled = bool(self.config.task.validation_data.buckets)
        return tf.function(evaluate, autograph=False) if compiled else evaluate

    def eval_end(self, aggregated_logs: Any = None) -> dict[str, float]:
        """The scores, recorded under the names of `maskformer.runs.run_record`."""
        logs = super().eval_end(aggregated_logs)
        scores = {name: logs[name] for name in SCORES if name in logs}
        self._write(int(self.global_step.numpy()), "eval", scores)
        if self._record and aggregated_logs is not None:
            self._record.save_counts(aggregated_logs.counts)
        return logs


class Controller(orbit.Controller):
    """Orbit's loop whose evaluations do not depend on where a run was interrupted.

    They are at multiples of the interval and at the end; one that was cut short is made up for.
    """

    def train_and_evaluate(
        self, train_steps: int, eval_steps: int = -1, eval_interval: int | None = None
    ) -> Any:
        """As Orbit's; returns the values of the last evaluation."""
        interval, output = eval_interval or train_steps, None
        step = int(self.global_step.numpy())
        due = step > 0 and (step % interval == 0 or step >= train_steps)
        if due and not self.trainer.was_evaluated(step):
            output = self.evaluate(eval_steps)
        while step < train_steps:
            step = min((step // interval + 1) * interval, train_steps)
            self.train(step, checkpoint_at_completion=False)
            output = self.evaluate(eval_steps)
        self._maybe_save_checkpoint(check_interval=False)
        return output


def _memory_bytes() -> float:
    """The accelerator's peak where there is one that tells, else the process's."""
    for device in tf.config.list_logical_devices():
        if device.device_type in ("GPU", "TPU"):
            return float(tf.config.experimental.get_memory_info(device.name)["peak"])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
