"""A model executed as the program that a TPU would be given, with its products rewritten."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tf_impl.tpu.compiler import options_for, stable_module
from tf_impl.tpu.lowering import Program, lower
from tf_impl.tpu.products import rewrite


class RoundedProducts:
    """A model whose forward pass is the lowered program, with its products in so many passes."""

    def __init__(self, model: tf_keras.Model, passes: int, outputs: tuple[str, ...]) -> None:
        """`outputs` are the names of those that are computed; `passes` is a key of `DEPTHS`."""
        self._model, self._passes, self._outputs = model, passes, outputs
        self._programs: dict[tuple[int, ...], Callable[..., list[np.ndarray]]] = {}
        # By the identity of a variable, which is kept, or another could get the same one.
        self._held: dict[int, tuple[Any, Any]] = {}

    def __call__(self, images: tf.Tensor, sizes: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """The outputs by name. Args: images float32 [N,H,W,3] and sizes int32 [N,2], padded."""
        shape = tuple(images.shape)
        if shape not in self._programs:
            specs = [tf.TensorSpec(shape), tf.TensorSpec((shape[0], 2), tf.int32)]
            self._programs[shape] = self._loaded(lower(self._forward, specs))
        found = self._programs[shape](images.numpy(), sizes.numpy())
        return {name: tf.constant(one) for name, one in zip(self._outputs, found, strict=True)}

    def _forward(self, images: tf.Tensor, sizes: tf.Tensor) -> list[tf.Tensor]:
        outputs = self._model(images, sizes=sizes)
        return [outputs[name] for name in self._outputs]

    def _loaded(self, program: Program) -> Callable[..., list[np.ndarray]]:
        """The program, rewritten and compiled for this processor."""
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # else it looks for a TPU first
        import jax
        from jax._src.interpreters import mlir
        from jax._src.lib import _jax

        device = jax.devices("cpu")[0]
        with mlir.make_ir_context():
            module = stable_module(program.hlo)
            rewrite(module, self._passes)
            executable = device.client.compile_and_load(
                module, _jax.DeviceList((device,)), options_for([device])
            )
        variables = [self._put(one) for one in program.captured]

        def run(*arrays: np.ndarray) -> list[np.ndarray]:
            given = [jax.device_put(one, device) for one in arrays]
            results = executable.execute_sharded([*given, *variables])
            made = results.disassemble_into_single_device_arrays()
            return [np.asarray(one[0]) for one in made[: len(self._outputs)]]

        return run

    def _put(self, variable: Any) -> Any:
        """A variable as the program takes it, once for all programs."""
        import jax

        if id(variable) not in self._held:
            with jax.enable_x64(True):
                array = jax.device_put(variable.numpy(), jax.devices("cpu")[0])
            self._held[id(variable)] = variable, array
        return self._held[id(variable)][1]
