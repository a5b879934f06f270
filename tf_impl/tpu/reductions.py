"""The sums over replicas in a lowered program, and mistakes in them, planted in the program itself.

A program is a StableHLO module; JAX has the tools to change it. TensorFlow is not loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

GRADIENTS = "gradients_over_replicas"
COUNTS = "counts_over_replicas"
CLIP_EPSILON = 1e-6  # as in `tf_impl.optimizer`, which this module cannot load


@dataclass(frozen=True)
class Reductions:
    """The sums over replicas of a module, how many replicas there are, and the norm of the clip."""

    module: Any
    replicas: int
    clip: float | None

    def sums(self, scope: str) -> list[Any]:
        """The sums that were lowered in this scope, `GRADIENTS` or `COUNTS`, in their order."""
        from jaxlib.mlir import ir

        found: list[Any] = []

        def visit(operation: Any) -> Any:
            if operation.name == "stablehlo.all_reduce" and scope in str(operation.location):
                found.append(operation)
            return ir.WalkResult.ADVANCE

        self.module.operation.walk(visit)
        return found

    def each(self, value: float) -> list[float]:
        """The same factor for every replica."""
        return [value] * self.replicas


def plant(module: Any, wrong: str, replicas: int, clip: float | None) -> None:
    """Makes one mistake of `WRONG` in a module; to be called in its MLIR context.

    Raises ValueError where the module has no sum over replicas to make it in.
    """
    found = Reductions(module, replicas, clip)
    scope = COUNTS if wrong == "counts-apart" else GRADIENTS
    if not found.sums(scope):
        raise ValueError(f"the program has no sum over replicas in {scope}")
    WRONG[wrong].plant(found)


def _mean(found: Reductions) -> None:
    for one in found.sums(GRADIENTS):
        _scale_result(one, found.each(1 / found.replicas))


def _lost(found: Reductions) -> None:
    for one in found.sums(GRADIENTS):
        _scale_operand(one, [*found.each(1.0)[1:], 0.0])


def _twice(found: Reductions) -> None:
    for one in found.sums(GRADIENTS):
        _scale_operand(one, [2.0, *found.each(1.0)[1:]])


def _repeated(found: Reductions) -> None:
    for one in found.sums(GRADIENTS):
        _scale_result(one, found.each(float(found.replicas)))


def _apart(found: Reductions) -> None:
    for one in found.sums(GRADIENTS):
        _leave_out(one)


def _partly(found: Reductions) -> None:
    for one in found.sums(GRADIENTS)[::2]:
        _leave_out(one)


def _counts_apart(found: Reductions) -> None:
    for one in found.sums(COUNTS):
        _leave_out(one)


def _neighbour(found: Reductions) -> None:
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    pairs = [[one, (one + 1) % found.replicas] for one in range(found.replicas)]
    for one in found.sums(GRADIENTS):
        with ir.InsertionPoint(one), one.location:
            pairs_attribute = ir.DenseIntElementsAttr.get(np.asarray(pairs, np.int64))
            moved = stablehlo.collective_permute(one.operands[0], pairs_attribute)
        one.results[0].replace_all_uses_with(moved)
        one.erase()


def _largest(found: Reductions) -> None:
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    for one in found.sums(GRADIENTS):
        added = one.regions[0].blocks[0].operations[0]
        with ir.InsertionPoint(added), added.location:
            larger = stablehlo.maximum(*added.operands)
        added.results[0].replace_all_uses_with(larger)
        added.operation.erase()


def _clipped(found: Reductions) -> None:
    """Every share is clipped by its own norm, before the sum."""
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    sums = found.sums(GRADIENTS)
    _postpone(sums)
    shares = [one.operands[0] for one in sums]
    with ir.InsertionPoint(sums[0]), sums[0].location:
        scalar = ir.RankedTensorType.get([], ir.F32Type.get())

        def constant(value: float) -> Any:
            array = np.asarray(value, np.float32)
            return stablehlo.constant(ir.DenseElementsAttr.get(array, type=ir.F32Type.get()))

        squares = constant(0.0)
        along = ir.Attribute.parse(
            "#stablehlo.dot<lhs_contracting_dimensions = [0], rhs_contracting_dimensions = [0]>"
        )
        for share in shares:
            size = int(np.prod(ir.RankedTensorType(share.type).shape, dtype=np.int64))
            flat = stablehlo.reshape(ir.RankedTensorType.get([size], ir.F32Type.get()), share)
            squares = stablehlo.add(squares, stablehlo.dot_general(scalar, flat, flat, along))
        norm = stablehlo.add(stablehlo.sqrt(squares), constant(CLIP_EPSILON))
        least = stablehlo.minimum(stablehlo.divide(constant(found.clip), norm), constant(1.0))
        for one, share in zip(sums, shares, strict=True):
            wide = stablehlo.broadcast_in_dim(share.type, least, ir.DenseI64ArrayAttr.get([]))
            one.operands[0] = stablehlo.multiply(share, wide)


def _leave_out(one: Any) -> None:
    one.results[0].replace_all_uses_with(one.operands[0])
    one.erase()


def _scale_operand(one: Any, factors: Sequence[float]) -> None:
    from jaxlib.mlir import ir

    with ir.InsertionPoint(one), one.location:
        one.operands[0] = _scaled(one.operands[0], factors)


def _scale_result(one: Any, factors: Sequence[float]) -> None:
    from jaxlib.mlir import ir

    result = one.results[0]
    users = [use.owner for use in result.uses]
    with ir.InsertionPoint.after(one), one.location:
        scaled = _scaled(result, factors)
    for user in users:
        for index, operand in enumerate(user.operands):
            if operand == result:
                user.operands[index] = scaled


def _scaled(value: Any, factors: Sequence[float]) -> Any:
    """`value` times the factor of the replica that runs."""
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    element = ir.RankedTensorType(value.type).element_type
    table = stablehlo.constant(
        ir.DenseElementsAttr.get(np.asarray(factors, np.float32), type=element)
    )
    own = stablehlo.dynamic_slice(table, [stablehlo.replica_id()], ir.DenseI64ArrayAttr.get([1]))
    factor = stablehlo.reshape(ir.RankedTensorType.get([], element), own)
    wide = stablehlo.broadcast_in_dim(value.type, factor, ir.DenseI64ArrayAttr.get([]))
    return stablehlo.multiply(value, wide)


def _postpone(sums: Sequence[Any]) -> None:
    """Moves the sums, and all that depends on them, behind the rest of their block."""
    block = sums[0].block
    operations = list(block.operations)
    last, dependent = operations[-1], {one.results[0] for one in sums}
    for operation in operations[:-1]:
        results = set(operation.results)
        if results & dependent or any(one in dependent for one in operation.operands):
            dependent |= results
            operation.operation.move_before(last)


@dataclass(frozen=True)
class Wrong:
    """A mistake in the reduction: what it is, and what plants it in a program."""

    what: str
    plant: Callable[[Reductions], None]


WRONG: Mapping[str, Wrong] = {
    "mean-for-sum": Wrong("the shares of replicas are averaged instead of added up", _mean),
    "share-lost": Wrong("the share of the last replica is lost", _lost),
    "share-twice": Wrong("the share of the first replica counts twice", _twice),
    "summed-again": Wrong("the sum over replicas is added up once more", _repeated),
    "shares-apart": Wrong("every replica updates by its own gradients alone", _apart),
    "partly-summed": Wrong("only some parameters' gradients are added up", _partly),
    "neighbours-share": Wrong("every replica has another's share in place of all", _neighbour),
    "largest-for-sum": Wrong("the largest share is taken in place of their sum", _largest),
    "clip-first": Wrong("gradients are clipped before the reduction over replicas", _clipped),
    "counts-apart": Wrong("what divides losses is not added up over replicas", _counts_apart),
}
"""Mistakes that can be planted, by id."""
