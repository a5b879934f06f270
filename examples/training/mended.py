"""Parts of tf_keras as PyTorch computes them, in the precision of their tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tf_keras


class BatchNormalization(tf_keras.layers.Layer):
    """PyTorch's: the variance that is kept is divided by n - 1; `momentum` is what stays."""

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, unbiased: bool = True) -> None:
        super().__init__()
        self.momentum, self.epsilon, self.unbiased = momentum, epsilon, unbiased

    def build(self, shape: Any) -> None:
        """One number for each of the last axis."""
        size = shape[-1:]
        self.gamma = self.add_weight("gamma", size, initializer="ones")
        self.beta = self.add_weight("beta", size, initializer="zeros")
        self.moving_mean = self.add_weight(
            "moving_mean", size, initializer="zeros", trainable=False
        )
        self.moving_variance = self.add_weight(
            "moving_variance", size, initializer="ones", trainable=False
        )

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """By the batch's statistics in training, by the kept ones else."""
        mean, variance = self.moving_mean, self.moving_variance
        if training:
            axes = list(range(x.shape.rank - 1))
            mean, variance = tf.nn.moments(x, axes)
            count = tf.cast(tf.size(x) / tf.size(mean), x.dtype)
            kept = variance * count / (count - 1) if self.unbiased else variance
            for moving, value in ((self.moving_mean, mean), (self.moving_variance, kept)):
                moving.assign(self.momentum * moving + (1 - self.momentum) * value)
        return (x - mean) / tf.sqrt(variance + self.epsilon) * self.gamma + self.beta


class AdamW(tf_keras.optimizers.Optimizer):
    """PyTorch's: epsilon is added after the bias correction; one norm clips all gradients."""

    def __init__(
        self,
        rate: Any,
        decay: float,
        epsilon: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
        clip: float | None = None,
        decayed: Callable[[Any], bool] = lambda variable: True,
        slower: Callable[[Any], float] = lambda variable: 1.0,
    ) -> None:
        super().__init__("adamw")
        self._learning_rate = self._build_learning_rate(rate)
        self.decay, self.epsilon, self.betas, self.clip = decay, epsilon, betas, clip
        self.decayed, self.slower = decayed, slower

    def build(self, variables: Sequence[Any]) -> None:
        """Two moments for each variable."""
        if getattr(self, "_built", False):
            return
        super().build(variables)
        self.first, self.second = (
            [self.add_variable_from_reference(one, name) for one in variables] for name in "mv"
        )
        self._built = True

    def _clip_gradients(self, gradients: Sequence[Any]) -> Sequence[Any]:
        if self.clip is None:
            return gradients
        norm = tf.linalg.global_norm(gradients)
        scale = tf.minimum(self.clip / (norm + 1e-6), tf.ones_like(norm))
        return [one * scale for one in gradients]

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """One update of one variable."""
        dtype, place = variable.dtype, self._index_dict[self._var_key(variable)]
        rate = tf.cast(self.learning_rate, dtype) * self.slower(variable)
        count = tf.cast(self.iterations + 1, dtype)
        gradient = tf.convert_to_tensor(gradient)
        first, second = self.first[place], self.second[place]
        first.assign(self.betas[0] * first + (1 - self.betas[0]) * gradient)
        second.assign(self.betas[1] * second + (1 - self.betas[1]) * gradient**2)
        one, two = (1 - tf.constant(beta, dtype) ** count for beta in self.betas)
        size = tf.sqrt(second) / tf.sqrt(two) + self.epsilon
        decay = self.decay if self.decayed(variable) else 0.0
        variable.assign(variable * (1 - rate * decay) - rate * first / one / size)

    def get_config(self) -> dict[str, Any]:
        """Nothing is kept beside the variables."""
        return {**super().get_config(), "decay": self.decay, "epsilon": self.epsilon}


class Piecewise(tf_keras.optimizers.schedules.LearningRateSchedule):
    """PyTorch's milestones: a boundary is the first step of the next piece."""

    def __init__(self, boundaries: Sequence[int], values: Sequence[float]) -> None:
        self.boundaries, self.values = boundaries, values

    def __call__(self, step: Any) -> tf.Tensor:
        """The rate of an update, in the precision of Keras."""
        values = tf.constant(self.values, tf_keras.backend.floatx())
        passed = sum(tf.cast(step >= one, tf.int32) for one in self.boundaries)
        return values[passed]

    def get_config(self) -> dict[str, Any]:
        """What makes it again."""
        return {"boundaries": list(self.boundaries), "values": list(self.values)}
