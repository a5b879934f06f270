"""Products of float32 as a TPU makes them, of parts of bfloat16, in a lowered program.

A TPU multiplies numbers of bfloat16 and adds up in float32. A factor of float32 is the sum of parts
of bfloat16, each what the parts before it leave, and the product is the sum of products of parts:
the first parts' alone in one pass, which is what XLA does unless more is asked for; in three passes
also those of a first and a second part; in six those of all parts whose places add up to at most
two.
"""

from typing import Any

from parity.errors import InputError
from tf_impl.tpu.compiler import check_jax

DEPTHS = {1: 0, 3: 1, 6: 2}
"""By passes, what the places of two parts add up to at most."""

EXPONENT, MANTISSA = 8, 7
"""Bits of bfloat16."""

_PRODUCTS = ("stablehlo.dot", "stablehlo.dot_general", "stablehlo.convolution")


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
