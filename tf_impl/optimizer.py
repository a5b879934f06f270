"""AdamW and SGD with torch's formulas, as tf_keras optimizers in the Model Garden's factory.

Keras' Adam adds epsilon before the bias correction, and decays by a rule of its own; with gradients
clipped to a norm of 0.01 over 45 million parameters that changes the first updates by 75 %.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf
import tf_keras
from official.modeling import optimization
from official.modeling.hyperparams import oneof
from official.modeling.optimization.configs import optimizer_config

from maskformer.model.solver import SolverConfig, parameter_group
from tf_impl.schedule import SolverSchedule
from tf_impl.variables import owned_variables

CLIP_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_


class _TorchOptimizer(tf_keras.optimizers.Optimizer):
    """Groups and full-model clipping; subclasses give the update of one variable.

    `global_clipnorm` scales all gradients by one factor, after they are reduced over replicas.
    `weight_decay_rate` and a factor 1 on the learning rate hold for variables without a group.
    """

    def __init__(
        self,
        learning_rate: float | tf_keras.optimizers.schedules.LearningRateSchedule,
        weight_decay_rate: float,
        global_clipnorm: float | None,
        name: str,
    ) -> None:
        super().__init__(name=name, global_clipnorm=global_clipnorm, jit_compile=False)
        self.weight_decay_rate = weight_decay_rate
        self._groups: dict[str, tuple[float, float]] = {}
        self._learning_rate = self._build_learning_rate(learning_rate)

    def set_group(self, variable: tf.Variable, lr_factor: float, weight_decay: float) -> None:
        """Give `variable` a learning rate of `lr_factor` times the optimizer's, and its decay."""
        self._groups[self._var_key(variable)] = (lr_factor, weight_decay)

    def first_moment(self, variable: tf.Variable) -> tf.Variable:
        """The running mean, or momentum, of a variable's gradients; of a built optimizer."""
        return self._first[self._index_dict[self._var_key(variable)]]

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        factor, decay = self._groups.get(self._var_key(variable), (1.0, self.weight_decay_rate))
        lr = tf.cast(self.learning_rate * factor, variable.dtype)
        self._update(tf.convert_to_tensor(gradient), variable, lr, decay)

    def last_rate(self, variable: tf.Variable) -> float:
        """The learning rate by which the last update moved `variable`."""
        factor, _ = self._groups.get(self._var_key(variable), (1.0, self.weight_decay_rate))
        return float(tf.convert_to_tensor(self.learning_rate)) * factor

    def _update(
        self, gradient: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float
    ) -> None:
        raise NotImplementedError

    def _slots(self, variables: Sequence[tf.Variable], name: str) -> list[tf.Variable]:
        return [self.add_variable_from_reference(variable, name) for variable in variables]

    def _clip_gradients(self, grads: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        """`torch.nn.utils.clip_grad_norm_`: scaled by min(1, clip / (norm + 1e-6))."""
        if not self.global_clipnorm:
            return grads
        scale = clip_scale(grads, self.global_clipnorm)
        return [grad * tf.cast(scale, grad.dtype) for grad in grads]

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "weight_decay_rate": self.weight_decay_rate,
            "global_clipnorm": self.global_clipnorm,
        }


def clip_scale(grads: Sequence[tf.Tensor], clip: float) -> tf.Tensor:
    """The factor, at most 1, by which torch's full-model clipping scales gradients."""
    norm = tf.linalg.global_norm(grads)
    return tf.minimum(clip / (norm + CLIP_EPSILON), tf.ones_like(norm))


class TorchAdamW(_TorchOptimizer):
    """`torch.optim.AdamW`: decay first, epsilon added after the bias correction.

    Loshchilov and Hutter 2019, algorithm 2, with the learning rate as the schedule multiplier.
    """

    def __init__(
        self,
        learning_rate: float | tf_keras.optimizers.schedules.LearningRateSchedule = 1e-4,
        weight_decay_rate: float = 1e-4,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        global_clipnorm: float | None = None,
        name: str = "TorchAdamW",
    ) -> None:
        super().__init__(learning_rate, weight_decay_rate, global_clipnorm, name)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._first = self._slots(var_list, "m")
        self._second = self._slots(var_list, "v")
        self._built = True

    def apply_gradients(
        self, grads_and_vars: Iterable[tuple[tf.Tensor, tf.Variable]], **kwargs: Any
    ) -> tf.Variable:
        pairs = list(grads_and_vars)
        # Once for all variables of a dtype: a thousand operations less to trace and run.
        dtypes = {variable.dtype.base_dtype for _, variable in pairs}
        self._corrections = {dtype: self._bias_corrections(dtype) for dtype in dtypes}
        return super().apply_gradients(pairs, **kwargs)

    def _bias_corrections(self, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
        """1 - beta_1 ** step, and the square root of 1 - beta_2 ** step."""
        step = tf.cast(self.iterations + 1, dtype)
        # Without the cancellation that float32 would suffer for beta near 1.
        first, second = (-tf.math.expm1(step * math.log(b)) for b in (self.beta_1, self.beta_2))
        return first, tf.sqrt(second)

    def _update(
        self, gradient: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float
    ) -> None:
        first = self.first_moment(variable)
        second = self._second[self._index_dict[self._var_key(variable)]]
        correction_1, root_2 = self._corrections[variable.dtype.base_dtype]
        first.assign_add((gradient - first) * (1 - self.beta_1))
        second.assign(second * self.beta_2 + gradient * gradient * (1 - self.beta_2))
        denominator = tf.sqrt(second) / root_2 + self.epsilon
        decayed = variable * (1 - lr * decay)
        variable.assign(decayed - lr / correction_1 * (first / denominator))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


class TorchSGD(_TorchOptimizer):
    """`torch.optim.SGD` with momentum: decay is added to the gradient, no dampening."""

    def __init__(
        self,
        learning_rate: float | tf_keras.optimizers.schedules.LearningRateSchedule = 1e-4,
        weight_decay_rate: float = 1e-4,
        momentum: float = 0.9,
        global_clipnorm: float | None = None,
        name: str = "TorchSGD",
    ) -> None:
        super().__init__(learning_rate, weight_decay_rate, global_clipnorm, name)
        self.momentum = momentum

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._first = self._slots(var_list, "momentum")
        self._built = True

    def _update(
        self, gradient: tf.Tensor, variable: tf.Variable, lr: tf.Tensor, decay: float
    ) -> None:
        velocity = self.first_moment(variable)
        velocity.assign(velocity * self.momentum + (gradient + decay * variable))
        variable.assign_sub(lr * velocity)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum}


@dataclasses.dataclass
class TorchAdamWConfig(optimizer_config.BaseOptimizerConfig):
    """Arguments of `TorchAdamW`; the clip acts after the reduction over replicas."""

    name: str = "TorchAdamW"
    weight_decay_rate: float = 1e-4
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    global_clipnorm: float | None = 0.01


@dataclasses.dataclass
class TorchSGDConfig(optimizer_config.BaseOptimizerConfig):
    """Arguments of `TorchSGD`; the clip acts after the reduction over replicas."""

    name: str = "TorchSGD"
    weight_decay_rate: float = 1e-4
    momentum: float = 0.9
    global_clipnorm: float | None = 0.01


@dataclasses.dataclass
class OptimizerConfig(oneof.OneOfConfig):
    """The optimizers that train a MaskFormer, for the Model Garden's `OptimizationConfig`."""

    type: str | None = "torch_adamw"
    torch_adamw: TorchAdamWConfig = dataclasses.field(default_factory=TorchAdamWConfig)
    torch_sgd: TorchSGDConfig = dataclasses.field(default_factory=TorchSGDConfig)


@dataclasses.dataclass
class OptimizationConfig(optimization.OptimizationConfig):
    """The Model Garden's `OptimizationConfig` with this module's optimizers."""

    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)


optimization.register_optimizer_cls("torch_adamw", TorchAdamW, use_legacy_optimizer=False)
optimization.register_optimizer_cls("torch_sgd", TorchSGD, use_legacy_optimizer=False)


def build_optimizer(
    model: tf.Module, solver: SolverConfig, dtype: str = "float32"
) -> _TorchOptimizer:
    """The published optimizer of `model`, with its schedule and parameter groups.

    `dtype` is that of the variables and of the learning rate.
    """
    schedule = SolverSchedule(solver, dtype)
    clip = solver.clip_value if solver.clip_type == "full_model" else None
    if solver.optimizer == "ADAMW":
        optimizer = TorchAdamW(schedule, solver.weight_decay, *solver.betas, solver.eps, clip)
    else:
        optimizer = TorchSGD(schedule, solver.weight_decay, solver.momentum, clip)
    set_groups(optimizer, model, solver)
    return optimizer


def set_groups(optimizer: _TorchOptimizer, model: tf.Module, solver: SolverConfig) -> None:
    """Give every trainable variable of `model` its group; see `parameter_groups`."""
    groups = parameter_groups(model, solver)
    for path, (variable, _) in owned_variables(model).items():
        if variable.trainable:
            lr, decay = groups[path]
            optimizer.set_group(variable, lr / solver.base_lr, decay)


def rates_of_last_update(optimizer: _TorchOptimizer, model: tf.Module) -> dict[str, float]:
    """The largest rate by which the last update moved a variable of the backbone, and one of the
    rest (`head`), as the optimizer had it: a schedule that does not reach it shows."""
    found: dict[str, float] = {}
    for path, (variable, _) in owned_variables(model).items():
        if variable.trainable:
            part = "backbone" if path.startswith("backbone.") else "head"
            found[part] = max(found.get(part, 0.0), optimizer.last_rate(variable))
    return found


def parameter_groups(model: tf.Module, solver: SolverConfig) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every trainable variable, by state-dict key."""
    return {
        path: parameter_group(kind, path, solver)
        for path, (variable, kind) in owned_variables(model).items()
        if variable.trainable
    }
