"""The published learning-rate schedules as a tf_keras schedule that runs on the device."""

import dataclasses
from bisect import bisect_right
from typing import Any

import tensorflow as tf
import tf_keras

from maskformer.model.solver import SolverConfig


class SolverSchedule(tf_keras.optimizers.schedules.LearningRateSchedule):
    """The head's rate at a step counted from 0, as `maskformer.model.solver.learning_rate`.

    Computed in float64 in the same order of operations, and cast to `dtype` at the end.
    """

    def __init__(self, solver: SolverConfig, dtype: str = "float32") -> None:
        self.solver = solver
        self.dtype = dtype

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The scalar rate for an integer `step`."""
        step = tf.cast(step, tf.int64)
        poly = self.solver.schedule == "WarmupPolyLR"
        return tf.cast(self._poly(step) if poly else self._multi_step(step), self.dtype)

    def _poly(self, step: tf.Tensor) -> tf.Tensor:
        solver = self.solver
        # Counted down in integers: XLA divides by multiplying, and 1 - step / max_iter could end
        # below 0, where the power is NaN.
        left = tf.cast(tf.maximum(solver.max_iter - step, 0), tf.float64)
        decay = (left / solver.max_iter) ** solver.power
        if solver.warmup_iters == 0:
            return solver.base_lr * decay
        alpha = tf.cast(step, tf.float64) / solver.warmup_iters
        ramp = solver.warmup_factor * (1 - alpha) + alpha
        if solver.warmup_method == "constant":
            ramp = tf.constant(solver.warmup_factor, tf.float64)
        warmup = tf.where(step < solver.warmup_iters, ramp, tf.ones_like(ramp))
        return solver.base_lr * warmup * decay

    def _multi_step(self, step: tf.Tensor) -> tf.Tensor:
        solver = self.solver
        multiplier = tf.ones([], tf.float64)
        for count, milestone in enumerate(solver.steps, start=1):
            passed = tf.constant(solver.gamma**count, tf.float64)
            multiplier = tf.where(step >= milestone, passed, multiplier)
        if solver.warmup_iters == 0:
            return solver.base_lr * multiplier
        start = solver.warmup_factor * solver.gamma ** bisect_right(solver.steps, 0)
        end = solver.gamma ** bisect_right(solver.steps, solver.warmup_iters)
        where = (tf.cast(step, tf.float64) / solver.max_iter) / (
            solver.warmup_iters / solver.max_iter
        )
        ramp = end * where + start * (1 - where)
        if solver.warmup_method == "constant":
            ramp = tf.constant(start, tf.float64)
        return solver.base_lr * tf.where(step < solver.warmup_iters, ramp, multiplier)

    def get_config(self) -> dict[str, Any]:
        return {"solver": dataclasses.asdict(self.solver), "dtype": self.dtype}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SolverSchedule":
        solver = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in config["solver"].items()
        }
        return cls(SolverConfig(**solver), config["dtype"])
