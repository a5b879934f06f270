"""Certificates for assignments: optimality is proven from the dual variables, no solver is trusted.

Weak duality (Burkard, Dell'Amico and Martello 2009, section 4.1): for any duals, the pairs of any
assignment cost at least the sum of the duals of a side that is used up, plus the duals of a longer
side where they are negative, minus the largest violation for every pair made. numpy only.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Certificate:
    """How far an assignment can be from the optimum, at most, and the limit for its dtype.

    `cost` is the total of the pairs, `bound` what no assignment can go below, `gap` their
    difference, `limit` the rounding that a solver in `dtype` may leave (see `rounding_limit`).
    `faults` names what is wrong with the pairs themselves.
    """

    pairs: int
    cost: float
    bound: float
    limit: float
    dtype: str
    faults: tuple[str, ...]

    @property
    def gap(self) -> float:
        return self.cost - self.bound

    @property
    def holds(self) -> bool:
        """Whether the pairs are an assignment and optimal up to rounding."""
        return not self.faults and self.gap <= self.limit

    def __str__(self) -> str:
        if self.faults:
            return f"not an assignment: {'; '.join(self.faults)}"
        return (
            f"gap to the dual bound is {self.gap:.3g}, should be at most {self.limit:.3g} "
            f"[{self.pairs} pairs, cost {self.cost:.9g}, {self.dtype}]"
        )


def certify(
    cost: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    row_duals: np.ndarray,
    column_duals: np.ndarray,
    dtype: str = "float64",
) -> Certificate:
    """Prove that pairing `rows[i]` with `columns[i]` has the least cost, or say what is wrong.

    `cost` [N,M] finite; `row_duals` [N] and `column_duals` [M] may be any finite numbers, bad ones
    only weaken the bound. `dtype` is that of the solver and sets the limit. All sums are float64.
    """
    cost = np.asarray(cost, np.float64)
    u = np.asarray(row_duals, np.float64)
    v = np.asarray(column_duals, np.float64)
    pairs = min(cost.shape)
    faults = assignment_faults(cost.shape, np.asarray(rows), np.asarray(columns))
    if pairs == 0 or faults:
        return Certificate(pairs, 0.0, 0.0, 0.0, dtype, faults)
    with np.errstate(invalid="ignore"):
        violation = min(0.0, float((cost - u[:, None] - v[None, :]).min()))
    u_bound = u.sum() if cost.shape[0] == pairs else np.minimum(u, 0.0).sum()
    v_bound = v.sum() if cost.shape[1] == pairs else np.minimum(v, 0.0).sum()
    bound = float(u_bound + v_bound + pairs * violation)
    scale = max(float(np.abs(cost).max()), float(np.abs(u).max()), float(np.abs(v).max()))
    return Certificate(
        pairs=pairs,
        cost=float(cost[rows, columns].sum()),
        bound=bound,
        limit=rounding_limit(pairs, scale, dtype),
        dtype=dtype,
        faults=(),
    )


def rounding_limit(pairs: int, scale: float, dtype: str) -> float:
    """What rounding in `dtype` may leave between cost and bound after `pairs` augmentations.

    A dual is lowered at most once per augmentation, by a difference of path lengths. A path length
    is rounded three times for each of its at most `pairs` edges, a dual once per lowering: an error
    of at most (4 pairs + 1) half-ulps of `scale`, the largest cost or dual, in each reduced cost.
    The bound adds that up over the pairs. Costs below the smallest normal number count as 0.
    """
    info = np.finfo(dtype)
    per_pair = (4 * pairs + 1) * (float(info.eps) / 2 * scale + float(info.tiny))
    return pairs * per_pair


def assignment_faults(
    shape: tuple[int, int], rows: np.ndarray, columns: np.ndarray
) -> tuple[str, ...]:
    """Why pairs of `rows[i]` and `columns[i]` are no assignment of costs of this shape."""
    faults = []
    if len(rows) != min(shape) or len(columns) != min(shape):
        faults.append(f"{len(rows)} pairs, but should be {min(shape)}")
    for name, index, size in (("row", rows, shape[0]), ("column", columns, shape[1])):
        if len(index) and (index.min() < 0 or index.max() >= size):
            faults.append(f"a {name} is outside 0..{size - 1}")
        if len(np.unique(index)) != len(index):
            faults.append(f"a {name} is used twice")
    return tuple(faults)


def second_best_margin(
    cost: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    row_duals: np.ndarray,
    column_duals: np.ndarray,
) -> float:
    """How much more the cheapest different assignment costs; 0 where the optimum is not unique.

    Arguments as for `certify`, of an optimal assignment. A different assignment moves rows along a
    cycle; with reduced costs as lengths, which are not negative, the shortest cycle is the margin.
    Rows without a partner act as one more node, the way out for a displaced partner. Infinite
    where no other assignment exists.
    """
    cost = np.asarray(cost, np.float64)
    if cost.shape[0] > cost.shape[1]:
        return second_best_margin(cost.T, columns, rows, column_duals, row_duals)
    n, m = cost.shape
    if n == 0:
        return float("inf")
    order = np.argsort(rows)
    held = np.asarray(columns)[order]
    slack = np.maximum(cost - np.asarray(row_duals)[:, None] - np.asarray(column_duals)[None], 0.0)
    length = np.full((n + 1, n + 1), np.inf)
    length[:n, :n] = slack[:, held]
    free = np.setdiff1d(np.arange(m), held)
    if len(free):
        length[:n, n] = slack[:, free].min(axis=1)
        length[n, :n] = np.maximum(-np.asarray(column_duals, np.float64)[held], 0.0)
    np.fill_diagonal(length, np.inf)
    for middle in range(n + 1):
        np.minimum(length, length[:, middle, None] + length[None, middle, :], out=length)
    return float(np.diagonal(length).min())
