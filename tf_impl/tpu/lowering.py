"""The training step as an XLA program, for shapes alone: no data, no device, no strategy.

The step that is lowered is `tf_impl.train_step` itself, with the model's and the optimizer's
variables as the program's arguments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.util import nest

from maskformer.model.config import ModelConfig
from parity.errors import InputError
from tf_impl import micro_batches
from tf_impl.layers import compiled_for_tpu
from tf_impl.matcher import Targets
from tf_impl.tpu.reductions import COUNTS, GRADIENTS
from tf_impl.train_step import Batch, Gradients, train_step


class NotCompilableError(InputError):
    """A function has no XLA program; the message names the operation and why."""


@dataclass(frozen=True)
class Program:
    """A serialized HLO module, and how many replicas run it in lock step.

    `captured` are the variables and tensors that the program takes after the function's own
    tensors, in the order of its parameters. `results` are the paths of what the function returns,
    which come first among the program's results; variables that it changes follow.
    """

    hlo: bytes
    replicas: int
    captured: tuple[tf.Variable | tf.Tensor, ...] = ()
    results: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shapes:
    """Of one replica's batch: images, height and width, and the targets they are padded to."""

    batch: int
    height: int
    width: int
    max_targets: int

    def specs(self, config: ModelConfig) -> list[tf.TensorSpec]:
        """Images and sizes, then `Targets`, or the labels of a per-pixel head."""
        plane = (self.batch, self.height, self.width)
        inputs = [tf.TensorSpec((*plane, 3)), tf.TensorSpec((self.batch, 2), tf.int32)]
        if config.is_per_pixel:
            return [*inputs, tf.TensorSpec(plane, tf.int32)]
        targets = (self.batch, self.max_targets)
        return [
            *inputs,
            tf.TensorSpec(plane, tf.int32),
            tf.TensorSpec(targets, tf.int32),
            tf.TensorSpec(targets, tf.bool),
            tf.TensorSpec((self.batch,), tf.int32),
        ]


def lower_train_step(
    model: tf_keras.Model,
    optimizer: tf_keras.optimizers.Optimizer,
    shapes: Shapes,
    replicas: int = 1,
    training: bool = True,
    parts: int = 1,
    for_tpu: bool = True,
) -> Program:
    """One whole update: forward, matching, losses, backward, all-reduce, clipping, new weights.

    Dropout is on with `training`. With several replicas the sums over them are all-reduces in the
    program. A replica's batch is computed in `parts`, which are one loop. `for_tpu` as in `lower`.
    """
    optimizer.build(model.trainable_variables)

    def find(model: tf_keras.Model, batch: Batch, training: bool) -> Gradients:
        return micro_batches.gradients(model, batch, parts, training)[0]

    def step(images: tf.Tensor, sizes: tf.Tensor, *targets: tf.Tensor) -> Any:
        wanted = targets[0] if model.config.is_per_pixel else Targets(*targets)
        batch = Batch(images, sizes, wanted)
        return train_step(model, optimizer, batch, training, find if parts > 1 else None)

    return lower(step, shapes.specs(model.config), replicas, for_tpu)


def lower_forward(model: tf_keras.Model, shapes: Shapes) -> Program:
    """The forward pass of evaluation: predictions at the head's own resolution."""
    images, sizes = shapes.specs(model.config)[:2]
    return lower(lambda images, sizes: model(images, sizes=sizes), [images, sizes])


def lower(
    function: Callable, specs: Sequence[tf.TensorSpec], replicas: int = 1, for_tpu: bool = True
) -> Program:
    """The HLO module of `function` of tensors like `specs`.

    Products of float32 are asked for in full precision, as a training run asks for them. Layers are
    traced as where a TPU runs them, but without `for_tpu`.
    Raises NotCompilableError where an operation has no XLA kernel, where a shape depends on data in
    a way that XLA cannot bound, and where Python has to run in the middle.
    """

    def run(*tensors: tf.Tensor) -> Any:
        with _LoweredReplica(replicas), compiled_for_tpu(for_tpu):
            return function(*tensors)

    traced = tf.function(run, jit_compile=True, autograph=False)
    reduced = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        hlo = traced.experimental_get_compiler_ir(*specs)(stage="hlo_serialized")
    except (tf.errors.OpError, ValueError, TypeError) as error:
        fact, evidence = _reason(error)
        raise NotCompilableError(
            fact, evidence, "Replace it by operations with static shapes that XLA has."
        ) from error
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(reduced)
    if (count := traced.experimental_get_tracing_count()) != 1:
        raise NotCompilableError(
            f"the function was traced {count} times",
            "each trace is another program, which a TPU compiles for minutes",
            "Let nothing but tensors change between calls.",
        )
    concrete = traced.get_concrete_function(*specs)
    named = nest.flatten_with_joined_string_paths(concrete.structured_outputs)
    results = tuple(path for path, tensor in named if tensor is not None)
    return Program(hlo, replicas, _captured(concrete), results)


def _captured(function: Any) -> tuple[tf.Variable | tf.Tensor, ...]:
    """What a traced function takes beside its arguments; variables in place of their handles."""
    variables = {id(variable.handle): variable for variable in function.graph.variables}
    return tuple(variables.get(id(one), one) for one in function.captured_inputs)


class _LoweredReplica(tf.distribute.ReplicaContext):
    """One of `replicas` replicas; sums over them become XLA all-reduces."""

    def __init__(self, replicas: int) -> None:
        super().__init__(tf.distribute.get_strategy(), 0)
        self._replicas = replicas

    @property
    def num_replicas_in_sync(self) -> int:
        return self._replicas

    def all_reduce(self, reduce_op: Any, value: Any, options: Any = None) -> Any:
        if reduce_op not in (tf.distribute.ReduceOp.SUM, "SUM"):
            raise NotImplementedError(f"{reduce_op} over replicas")
        groups = tf.constant([list(range(self._replicas))])
        scope = GRADIENTS if isinstance(value, list) else COUNTS

        def summed(tensor: tf.Tensor) -> tf.Tensor:
            return gen_xla_ops.xla_all_reduce(
                input=tensor, group_assignment=groups, reduce_op="Add", mode="CrossReplica"
            )

        with tf.name_scope(scope):
            return tf.nest.map_structure(summed, value)


def _reason(error: Exception) -> tuple[str, str]:
    """What cannot be compiled, and the compiler's own words, without its stack of C++ frames."""
    text = getattr(error, "message", None) or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("Stacktrace", "File ", "at ", "@"))]
    telling = ("No registered", "unsupported operation", "must be a compile-time constant")
    for line in kept:
        if any(words in line for words in telling):
            return "the step has an operation that XLA cannot compile", line[:600]
    return "the step cannot be lowered to XLA", (kept or [type(error).__name__])[0][:600]
