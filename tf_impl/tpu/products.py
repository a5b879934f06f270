"""Products of float32 as a TPU makes them, of parts of bfloat16, and a model that computes so.

A TPU multiplies numbers of bfloat16 and adds up in float32. A factor of float32 is the sum of parts
of bfloat16, each what the parts before it leave, and the product is the sum of products of parts:
the first parts' alone in one pass, which is what XLA does unless more is asked for; in three passes
also those of a first and a second part; in six those of all parts whose places add up to at most
two. What is executed is the program that a TPU would be given, with its products so rewritten.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from parity.errors import InputError
from tf_impl.tpu.compiler import check_jax, options_for, stable_module
from tf_impl.tpu.lowering import Program, lower

DEPTHS = {1: 0, 3: 1, 6: 2}
"""By passes, what the places of two parts add up to at most."""

EXPONENT, MANTISSA = 8, 7
"""Bits of bfloat16."""

_PRODUCTS = ("stablehlo.dot_general", "stablehlo.convolution")


def rewrite(module: Any, passes: int) -> None:
    """Makes every product and convolution of float32 of a StableHLO module in so many passes.

    To be called in its MLIR context.
    """
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    depth = DEPTHS[passes]
    found: list[Any] = []

    def visit(operation: Any) -> Any:
        if operation.name in _PRODUCTS and all(
            ir.RankedTensorType(one.type).element_type == ir.F32Type.get()
            for one in operation.operands
        ):
            found.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    for one in found:
        with ir.InsertionPoint(one), one.location:
            first, second = (_parts(operand, depth + 1) for operand in one.operands)
            # The smallest products first, as sums of numbers of one size lose least.
            places = [(i, total - i) for total in range(depth, -1, -1) for i in range(total + 1)]
            result = None
            for i, j in places:
                made = one.clone()
                made.operands[0], made.operands[1] = first[i], second[j]
                product = made.results[0]
                result = product if result is None else stablehlo.add(result, product)
        one.results[0].replace_all_uses_with(result)
        one.erase()


def _parts(value: Any, count: int) -> list[Any]:
    """The first `count` parts of a tensor, each rounded to bfloat16."""
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    bits = [ir.IntegerAttr.get(ir.IntegerType.get_signless(32), n) for n in (EXPONENT, MANTISSA)]
    found: list[Any] = []
    for _ in range(count):
        value = stablehlo.subtract(value, found[-1]) if found else value
        found.append(stablehlo.reduce_precision(value, *bits))
    return found


def check_passes(passes: int) -> None:
    """Raises InputError for a number of passes that a TPU does not have, and without JAX."""
    if passes not in DEPTHS:
        raise InputError(
            f"products are asked for in {passes} passes",
            f"expected: {', '.join(map(str, DEPTHS))}",
            "1 is what XLA does on a TPU by default, 6 what it does for the highest precision.",
        )
    check_jax()


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
