"""Milliseconds per batch of assignment problems: this project's solver beside others.

One batch is what a training step needs: `--images` x `--layers` problems of 100 queries. All
solvers see the same costs, take turns in one process, and must reach scipy's total cost.

    python -m benchmarks.assignment --targets 40 --targets 100 --repeats 7 --json
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment as scipy_assignment

from benchmarks.rounds import Rounds

QUERIES = 100
OURS, GARDEN, SCIPY, OPTAX = (
    "tf_impl (XLA)",
    "Model Garden (XLA)",
    "scipy, in a loop",
    "optax (jit)",
)

Solver = Callable[[np.ndarray], Callable[[], np.ndarray]]
"""From costs [B,Q,T], outside the clock, to a call that returns the query of each target [B,T]."""


def ours(cost: np.ndarray) -> Callable[[], np.ndarray]:
    """`tf_impl.linear_sum_assignment`."""
    import tensorflow as tf

    from tf_impl.linear_sum_assignment import linear_sum_assignment

    solve = tf.function(linear_sum_assignment, jit_compile=True)
    batch = tf.constant(cost)
    columns = tf.fill([cost.shape[0]], cost.shape[2])
    return lambda: solve(batch, columns).row_of_column.numpy()


def model_garden(cost: np.ndarray) -> Callable[[], np.ndarray]:
    """The Model Garden's DETR matcher; it needs square costs, so targets are padded with zeros."""
    import tensorflow as tf
    from official.projects.detr.ops.matchers import hungarian_matching

    solve = tf.function(hungarian_matching, jit_compile=True)
    missing = cost.shape[1] - cost.shape[2]
    batch = tf.constant(np.pad(cost, ((0, 0), (0, 0), (0, missing))))

    def run() -> np.ndarray:
        _, pairs = solve(batch)
        return pairs.numpy()[:, :, : cost.shape[2]].argmax(axis=1)

    return run


def scipy_loop(cost: np.ndarray) -> Callable[[], np.ndarray]:
    """scipy, one problem after the other."""
    return lambda: np.stack([scipy_assignment(one.T)[1] for one in cost])


def optax_batch(cost: np.ndarray) -> Callable[[], np.ndarray]:
    """optax's solver under `jit(vmap)`."""
    import jax
    from optax.assignment import hungarian_algorithm

    solve = jax.jit(jax.vmap(hungarian_algorithm))
    batch = jax.numpy.asarray(np.swapaxes(cost, 1, 2))

    def run() -> np.ndarray:
        rows, columns = (np.asarray(index) for index in solve(batch))
        return np.take_along_axis(columns, np.argsort(rows, axis=1), axis=1)

    return run


def measure(
    problems: int, targets: int, repeats: int, skip_slow: bool, rounds: Rounds
) -> dict[str, object]:
    """Median and least milliseconds of every solver on uniform costs, taking turns."""
    cost = np.random.default_rng(targets).random((problems, QUERIES, targets)).astype(np.float32)
    solvers: dict[str, Solver] = {OURS: ours, SCIPY: scipy_loop}
    if not skip_slow:
        solvers[GARDEN] = model_garden
    if find_spec("optax"):
        solvers[OPTAX] = optax_batch
    case = f"{problems} problems {QUERIES}x{targets}"

    calls, best = {}, None
    for name, prepare in solvers.items():
        calls[name] = prepare(cost)
        picked = calls[name]()
        total = np.take_along_axis(cost, picked[:, None, :], axis=1).astype(np.float64).sum()
        if name == OURS:
            best = total
        if abs(total - best) > 1e-4 * problems:
            raise SystemExit(f"{name}: total cost is {total}, but should be {best}")
    seconds: dict[str, list[float]] = {name: [] for name in solvers}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(rounds.add(case, name, time.perf_counter() - start))
    medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    return {
        "problems": problems,
        "queries": QUERIES,
        "targets": targets,
        "repeats": repeats,
        "median_ms": medians,
        "least_ms": {name: 1e3 * min(values) for name, values in seconds.items()},
        "times_ours": {name: value / medians[OURS] for name, value in medians.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--targets", type=int, action="append", help="may be repeated")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--skip-model-garden", action="store_true", help="it takes seconds a call")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)

    console, rounds = Console(stderr=arguments.json), Rounds("assignment")
    results = [
        measure(
            arguments.images * arguments.layers,
            targets,
            arguments.repeats,
            arguments.skip_model_garden,
            rounds,
        )
        for targets in arguments.targets or (40, 100)
    ]
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    for result in results:
        title = f"{result['problems']} problems, {QUERIES} queries x {result['targets']} targets"
        table = Table("solver", "median ms", "least ms", "times ours", title=title)
        for name, median in result["median_ms"].items():
            least, ratio = result["least_ms"][name], result["times_ours"][name]
            table.add_row(name, f"{median:.2f}", f"{least:.2f}", f"{ratio:.2f}")
        console.print(table)


if __name__ == "__main__":
    main()
