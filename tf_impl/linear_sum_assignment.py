"""Optimal assignment on the device: many rectangular problems in lock step, static shapes.

Shortest augmenting paths (Jonker and Volgenant 1987; Crouse 2016, the method of scipy's
`linear_sum_assignment`), started from the row minima. Every step of the one loop advances each
unfinished problem by one scanned column or one hop along its augmenting path, so the number of
steps is that of the hardest problem. Only column duals are kept: complementary slackness gives the
rows'. Lookups are masked reductions and one row gather, which TPUs compile well.
"""

from typing import NamedTuple

import tensorflow as tf

SOLVED = 0
NOT_FINITE = 1
UNSOLVED = 2

BIDS_PER_ROW = 2


class Assignment(NamedTuple):
    """Optimal pairs of B problems with N rows and M columns, and the proof of optimality.

    `column_of_row` int32 [B,N] and `row_of_column` int32 [B,M] hold -1 where unmatched.
    `row_duals` [B,N] and `column_duals` [B,M] have the dtype of the cost: their sum is at most the
    cost of each pair and equals it for matched pairs; unmatched rows and columns have dual 0, and
    the duals of the longer side are at most 0. `status` int32 [B] is `SOLVED`, `NOT_FINITE` (a NaN
    or an infinity among the costs) or `UNSOLVED` (the costs' differences overflow); a problem
    that is not solved has no pairs and duals 0.
    """

    column_of_row: tf.Tensor
    row_of_column: tf.Tensor
    row_duals: tf.Tensor
    column_duals: tf.Tensor
    status: tf.Tensor


class _Bids(NamedTuple):
    """State of the row reduction: `owner`, `prices` [C,B] as in `_Search`; [B]: the `row` that bids
    and the last one taken from the waiting line, both R when none is left; `costs` [C,B] of `row`.
    """

    step: tf.Tensor
    owner: tf.Tensor
    prices: tf.Tensor
    row: tf.Tensor
    turn: tf.Tensor
    costs: tf.Tensor


class _Search(NamedTuple):
    """State of the loop over B problems with R rows (the shorter side) and C columns.

    [C,B]: `owner` is the row that holds a column, -1 for none; `prices` the column duals. Of the
    search of row `root`: `open` is the shortest distance found to a column outside its tree
    (infinity inside), `closed` that to a column inside, `origin` packs the row and the column
    before it, and `tree_of` is the last search whose tree took the column in.
    [B]: the search stands at `row`, entered through column `entry` (-1 at the root) at distance
    `reached`; `costs` [C,B] are those of `row`, fetched a step ahead because XLA would fuse the
    fetch, transposed, into every use. The prices in the tree of `settle` (-1 for none) are still to
    be lowered, by its `length`. While `hop` >= 0 the path is being augmented and `hop` is the
    column that changes hands next. The problem is finished when `root` is R.
    """

    step: tf.Tensor
    owner: tf.Tensor
    prices: tf.Tensor
    open: tf.Tensor
    closed: tf.Tensor
    origin: tf.Tensor
    tree_of: tf.Tensor
    root: tf.Tensor
    row: tf.Tensor
    costs: tf.Tensor
    entry: tf.Tensor
    reached: tf.Tensor
    settle: tf.Tensor
    length: tf.Tensor
    hop: tf.Tensor
    overflow: tf.Tensor


def linear_sum_assignment(cost: tf.Tensor, columns: tf.Tensor) -> Assignment:
    """Pairs of least total cost, each row and column used at most once, min(N, columns) pairs.

    `cost` is float32 or float64 [B,N,M]; `columns` int32 [B] says how many leading columns of each
    problem are real, the others are never read into a result. N and M are static.
    """
    _, n, m = cost.shape
    columns = tf.cast(columns, tf.int32)
    real = tf.range(m) < columns[:, None]
    finite = tf.reduce_all(tf.math.is_finite(cost) | ~real[:, None, :], axis=(1, 2))
    cost = tf.where(real[:, None, :] & finite[:, None, None], cost, tf.zeros([], cost.dtype))

    by_column = tf.transpose(cost, [0, 2, 1])
    if m <= n:
        short, rows = by_column, columns
    else:
        short, rows = _shorter_side_first(cost, by_column, columns)
    rows = tf.where(finite, rows, 0)
    owner, prices, solved = _solve(short, rows)
    status = tf.where(finite, tf.where(solved, SOLVED, UNSOLVED), NOT_FINITE)

    held = _inverse(owner, short.shape[1])
    row_prices = _assigned_minus_price(short, held, prices)
    if m <= n:
        return Assignment(owner, held, prices, row_prices, status)
    flipped = (columns > n)[:, None]
    return Assignment(
        column_of_row=tf.where(flipped, held, owner[:, :n]),
        row_of_column=tf.where(
            flipped, owner, tf.pad(held, [[0, 0], [0, m - n]], constant_values=-1)
        ),
        row_duals=tf.where(flipped, row_prices, prices[:, :n]),
        column_duals=tf.where(flipped, prices, tf.pad(row_prices, [[0, 0], [0, m - n]])),
        status=status,
    )


def _shorter_side_first(
    cost: tf.Tensor, by_column: tf.Tensor, columns: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """[B,N,M] costs with the shorter real side as rows, for M > N; unreal columns cost infinity."""
    _, n, m = cost.shape
    infinity = tf.constant(float("inf"), cost.dtype)
    upright = tf.pad(by_column[:, :n, :], [[0, 0], [0, 0], [0, m - n]], constant_values=infinity)
    real = tf.range(m) < columns[:, None]
    flipped = tf.where(real[:, None, :], cost, infinity)
    short = tf.where((columns > n)[:, None, None], flipped, upright)
    return short, tf.minimum(columns, n)


def _solve(cost: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Owner of each column, column duals and whether solved, for [B,R,C] costs with R <= C."""
    _, r, c = cost.shape
    batch = tf.shape(cost)[0]
    if r == 0 or c == 0:
        return (
            tf.fill([batch, c], -1),
            tf.zeros([batch, c], cost.dtype),
            tf.ones([batch], tf.bool),
        )
    by_row = tf.reshape(cost, [batch * r, c])
    real = tf.range(r) < rows[:, None]
    owner, prices = _row_reduction(cost, by_row, real)

    held = _inverse(tf.transpose(owner), r)
    free = tf.transpose(tf.where(real & (held < 0), tf.range(r), r))
    root = tf.reduce_min(free, axis=0)
    nowhere = tf.fill([batch], -1)
    start = _Search(
        step=tf.constant(0),
        owner=owner,
        prices=prices,
        open=prices,
        closed=prices,
        origin=tf.zeros_like(owner),
        tree_of=tf.fill([c, batch], -2),
        root=root,
        row=root,
        costs=_costs(by_row, root, r),
        entry=nowhere,
        reached=prices[0],
        settle=nowhere,
        length=prices[0],
        hop=nowhere,
        overflow=tf.zeros([batch], tf.bool),
    )
    # A row scans at most R columns, then its path has at most R hops.
    most_steps = r * (2 * r + 1)
    end = _Search(
        *tf.while_loop(
            lambda *state: tf.reduce_any(_Search(*state).root < r) & (state[0] < most_steps),
            lambda *state: _advance(by_row, free, _Search(*state)),
            start,
        )
    )
    solved = (end.root == r) & ~end.overflow
    owner = tf.where(solved, end.owner, -1)
    prices = tf.where(solved, _settled_prices(end), tf.zeros([], cost.dtype))
    return tf.transpose(owner), tf.transpose(prices), solved


def _row_reduction(
    cost: tf.Tensor, by_row: tf.Tensor, real: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Owners and prices [C,B] of an optimal assignment of most rows.

    With prices 0 each column may go to one row whose minimum it is. Then free rows bid in turn
    (augmenting row reduction, Jonker and Volgenant 1987, section 3): the row takes its best column,
    lowers that price to where the second best is as good, and the owner it displaces bids next.
    """
    _, r, c = cost.shape
    row_index = tf.range(r)
    cheapest = tf.argmin(cost, axis=2, output_type=tf.int32)
    wants = (cheapest[:, :, None] == tf.range(c)) & real[:, :, None]
    first = tf.reduce_min(tf.where(wants, row_index[:, None], r), axis=1)
    served = tf.gather(first, cheapest, batch_dims=1) == row_index
    waiting = tf.transpose(tf.where(real & ~served, row_index, r))
    owner = tf.transpose(tf.where(first < r, first, -1))
    turn = tf.reduce_min(waiting, axis=0)
    prices = tf.zeros_like(owner, cost.dtype)
    start = _Bids(tf.constant(0), owner, prices, turn, turn, _costs(by_row, turn, r))
    most_steps = BIDS_PER_ROW * r
    end = _Bids(
        *tf.while_loop(
            lambda *state: tf.reduce_any(_Bids(*state).row < r) & (state[0] < most_steps),
            lambda *state: _bid(by_row, waiting, _Bids(*state)),
            start,
        )
    )
    return end.owner, end.prices


def _bid(by_row: tf.Tensor, waiting: tf.Tensor, s: _Bids) -> _Bids:
    """One row of each problem takes a column, or is left to the search where a tie stops it."""
    r, c = waiting.shape[0], by_row.shape[1]
    problem = tf.range(tf.shape(waiting)[1])
    infinity = tf.constant(float("inf"), by_row.dtype)
    reduced = s.costs - s.prices
    best = tf.reduce_min(reduced, axis=0)
    column, owner = _least_key(reduced == best, s.owner)
    second = tf.reduce_min(tf.where(tf.range(c)[:, None] == column, infinity, reduced), axis=0)
    takes = (s.row < r) & ((owner < 0) | (best < second)) & tf.math.is_finite(best)
    at = tf.stack([column, problem], axis=1)
    discount = tf.where(takes & tf.math.is_finite(second), best - second, tf.zeros_like(best))
    turn = tf.where(
        takes & (owner >= 0),
        s.turn,
        tf.reduce_min(tf.where(waiting > s.turn, waiting, r), axis=0),
    )
    row = tf.where(takes & (owner >= 0), owner, turn)
    return _Bids(
        step=s.step + 1,
        owner=tf.tensor_scatter_nd_update(s.owner, at, tf.where(takes, s.row, owner)),
        prices=tf.tensor_scatter_nd_add(s.prices, at, discount),
        row=row,
        turn=turn,
        costs=_costs(by_row, row, r),
    )


def _costs(by_row: tf.Tensor, row: tf.Tensor, r: int) -> tf.Tensor:
    """Costs [C,B] of one row of each problem; a row numbered R reads the last."""
    problem = tf.range(tf.shape(row)[0])
    return tf.transpose(tf.gather(by_row, problem * r + tf.minimum(row, r - 1)))


def _least_key(among: tf.Tensor, owner: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A column where `among` [C,B] holds, one that nobody owns first, and its owner."""
    c = owner.shape[0]
    bits = c.bit_length()
    keys = tf.bitwise.left_shift(owner + 1, bits) + tf.range(c)[:, None]
    key = tf.reduce_min(tf.where(among, keys, tf.int32.max), axis=0)
    column = tf.minimum(tf.bitwise.bitwise_and(key, (1 << bits) - 1), c - 1)
    return column, tf.bitwise.right_shift(key, bits) - 1


def _advance(by_row: tf.Tensor, free: tf.Tensor, s: _Search) -> _Search:
    """One column scanned, or one hop augmented, in every unfinished problem.

    Arrays are written before they are read, where possible: XLA then updates them in place.
    """
    r, c = free.shape[0], by_row.shape[1]
    bits = c.bit_length()
    problem = tf.range(tf.shape(free)[1])
    infinity = tf.constant(float("inf"), by_row.dtype)

    def place(column: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.maximum(column, 0), problem], axis=1)

    def write(table: tf.Tensor, at: tf.Tensor, value: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
        return tf.tensor_scatter_nd_update(
            table, at, tf.where(where, value, tf.gather_nd(table, at))
        )

    at_root, at_entry = s.entry < 0, place(s.entry)
    tree_of = write(s.tree_of, at_entry, s.root, ~at_root)
    closed = write(s.closed, at_entry, s.reached, ~at_root)
    prices = _settled_prices(s._replace(tree_of=tree_of, closed=closed))

    scanning = (s.root < r) & (s.hop < 0)
    outside = scanning & (tree_of != s.root)
    reduced = s.costs - prices
    shift = tf.where(at_root, tf.zeros_like(s.reached), s.reached - tf.gather_nd(reduced, at_entry))
    through = reduced + shift
    known = tf.where(at_root, infinity, s.open)
    open_ = tf.where(outside, tf.minimum(through, known), infinity)
    back = tf.bitwise.left_shift(s.row, bits) + (s.entry + 1)
    origin = tf.where(outside & (through == open_), back, s.origin)

    nearest = tf.reduce_min(open_, axis=0)
    column, column_owner = _least_key(open_ == nearest, s.owner)
    overflow = s.overflow | (scanning & ~tf.math.is_finite(nearest))
    found = scanning & (column_owner < 0) & ~overflow
    grows = scanning & (column_owner >= 0) & ~overflow

    hop = tf.where(found, column, s.hop)
    at_hop = place(hop)
    step_back = tf.gather_nd(origin, at_hop)
    owner = write(s.owner, at_hop, tf.bitwise.right_shift(step_back, bits), hop >= 0)
    hop_after = tf.where(hop >= 0, tf.bitwise.bitwise_and(step_back, (1 << bits) - 1) - 1, -1)
    done = (hop >= 0) & (hop_after < 0)

    next_root = tf.reduce_min(tf.where(free > s.root, free, r), axis=0)
    row = tf.where(done, next_root, tf.where(grows, column_owner, s.row))
    return _Search(
        step=s.step + 1,
        owner=owner,
        prices=prices,
        open=open_,
        closed=closed,
        origin=origin,
        tree_of=tree_of,
        root=tf.where(done, next_root, tf.where(overflow, r, s.root)),
        row=row,
        costs=_costs(by_row, row, r),
        entry=tf.where(done, -1, tf.where(grows, column, s.entry)),
        reached=tf.where(grows, nearest, s.reached),
        settle=tf.where(found, s.root, -1),
        length=nearest,
        hop=hop_after,
        overflow=overflow,
    )


def _settled_prices(s: _Search) -> tf.Tensor:
    """Prices [C,B] after the search `settle`: lowered in its tree by how much nearer it was."""
    nearer = tf.minimum(s.closed - s.length, tf.zeros_like(s.length))
    return tf.where(s.tree_of == s.settle, s.prices + nearer, s.prices)


def _inverse(owner: tf.Tensor, r: int) -> tf.Tensor:
    """Column of each of `r` rows, -1 where none, from the row of each column."""
    hits = owner[:, None, :] == tf.range(r)[:, None]
    return tf.reduce_max(tf.where(hits, tf.range(owner.shape[1]), -1), axis=2)


def _assigned_minus_price(cost: tf.Tensor, column: tf.Tensor, prices: tf.Tensor) -> tf.Tensor:
    """Row duals by complementary slackness: cost minus price at the row's column, 0 where none."""
    at_column = tf.range(cost.shape[2]) == column[:, :, None]
    zero = tf.zeros([], cost.dtype)
    return tf.reduce_sum(tf.where(at_column, cost - prices[:, None, :], zero), axis=2)
