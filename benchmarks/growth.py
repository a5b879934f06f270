"""How the cost grows: seconds beside counted work, for more pixels, images, layers, classes, masks.

    python -m benchmarks.growth --rounds 3

Each series is measured in turns, smallest first, and the median of the rounds counts. Work is
counted and not timed: operations of the reference's forward pass by PyTorch's own counter, and else
what the algorithm does to each thing. A series of which the seconds grow as an exponent above that
of the work, by two standard errors of the fit, grows faster than its work.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rounds import Rounds, read

CONFIG = "tiny"


@dataclass(frozen=True)
class Point:
    """One size of a series: how large, how much work, and what is timed once it was called.

    That of replicas takes the number of steps, and returns the seconds of each.
    """

    size: float
    work: float
    run: Callable[..., Any]


def _example(side: int, batch: int) -> tuple[Any, ...]:
    """Config, entry, weights, images and sizes of a square batch."""
    from maskformer.data.images import batch_images, synthetic_image
    from maskformer.model import zoo
    from replication.sides.weights import load_weights

    entry = zoo.get(CONFIG)
    drawn = [synthetic_image(side, side, index) for index in range(batch)]
    images, sizes = batch_images(drawn, entry.model)
    return entry, load_weights("seeded:0", entry.model), images, sizes


def pixels() -> list[Point]:
    """The forward pass as a graph; work is the operations of the reference's."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from replication.sides.tf_side import build_port, port_inputs
    from replication.sides.torch_side import build_reference, reference_inputs

    import tensorflow as tf  # isort: skip

    found = []
    for side in (128, 256, 512, 768):
        entry, weights, images, sizes = _example(side, 1)
        reference = build_reference(entry.model, weights, "float32")
        arguments = map(torch.from_numpy, reference_inputs(images, sizes, "float32").values())
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            reference(*arguments)
        port = build_port(entry.model, weights, "float32")
        function = tf.function(lambda images, sizes, port=port: port(images, sizes))
        given = {k: tf.constant(v) for k, v in port_inputs(images, sizes, "float32").items()}
        found.append(
            Point(
                side**2,
                counter.get_total_flops(),
                lambda function=function, given=given: function(**given)["pred_masks"].numpy(),
            )
        )
    return found


def images() -> list[Point]:
    """A training step as a graph, for more images in a batch."""
    from maskformer.data.targets import synthetic_targets
    from replication.sides.tf_side import build_port, port_batch

    found = []
    for batch in (1, 2, 4, 8):
        entry, weights, drawn, sizes = _example(96, batch)
        from tf_impl.optimizer import build_optimizer
        from tf_impl.train_step import compiled_step

        port = build_port(entry.model, weights, "float32")
        targets = synthetic_targets(entry.model, sizes, drawn.shape[1:3])
        given = port_batch(entry.model, drawn, sizes, targets, "float32", 16)
        step = compiled_step(
            port, build_optimizer(port, entry.solver, "float32"), training=True, jit_compile=False
        )
        found.append(Point(batch, batch, lambda step=step, given=given: step(given).total.numpy()))
    return found


def layers() -> list[Point]:
    """A whole audit, without a map, of a model of equal layers in both frameworks."""
    import tf_impl  # noqa: F401, I001  (selects tf_keras before TensorFlow is imported)
    import tf_keras
    import torch

    from parity import Pair, audit

    width, found = 16, []
    for count in (4, 8, 16, 32):
        torch.manual_seed(count)
        blocks = [torch.nn.Linear(width, width) for _ in range(count)]
        reference = torch.nn.Sequential(*blocks).eval()

        def port(count: int = count) -> tf_keras.Model:
            return tf_keras.Sequential([tf_keras.layers.Dense(width) for _ in range(count)])

        inputs = (np.random.default_rng(0).normal(size=(4, width)).astype(np.float32),)
        pair = Pair(reference, port, inputs)

        def run(pair: Any = pair) -> None:
            if audit(pair, executions=("eager",), quiet=True).verdict != "equal":
                raise SystemExit("the audit of equal layers does not find them equal")

        found.append(Point(count, count, run))
    return found


def classes() -> list[Point]:
    """The panoptic quality of counted images, for more classes, which are its work."""
    from benchmarks.metrics import draw_pair
    from maskformer.data.panoptic_format import Category
    from maskformer.metrics.panoptic_quality import count_image, score

    pair, found = draw_pair(0)[0], []
    for count in (532, 2128, 8512, 34048):
        categories = {i: Category(i, f"class {i}", i < 80) for i in range(count)}
        counts = count_image(pair, categories)

        def run(counts: Any = counts, categories: Any = categories) -> None:
            for _ in range(20):
                score(counts, categories)

        found.append(Point(count, count, run))
    return found


def targets() -> list[Point]:
    """The assignment of 96 problems of 100 queries, under XLA; work is queries times masks²."""
    import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)
    from benchmarks.assignment import QUERIES, ours

    random, found = np.random.default_rng(0), []
    for count in (10, 25, 50, 100):
        cost = random.random((96, QUERIES, count)).astype(np.float32)
        found.append(Point(count, QUERIES * count**2, ours(cost)))
    return found


def replicas() -> list[Point]:
    """A training step of several replicas on one processor, each with an image of its own."""
    from replication.process.fresh_process import in_fresh_process

    return [
        Point(count, count, lambda steps, count=count: in_fresh_process(replicated, count, steps))
        for count in (1, 2, 4)
    ]


def replicated(count: int, steps: int) -> list[float]:
    """Seconds of `steps` steps of `count` replicas after the first; in a fresh process."""
    from maskformer.data.targets import synthetic_targets
    from replication.process.logical_replicas import mirrored
    from replication.sides.tf_side import build_port, port_batch

    strategy = mirrored(count)
    import tensorflow as tf

    from tf_impl.optimizer import build_optimizer
    from tf_impl.train_step import train_step

    entry, weights, drawn, sizes = _example(96, 1)
    given = port_batch(
        entry.model,
        drawn,
        sizes,
        synthetic_targets(entry.model, sizes, drawn.shape[1:3]),
        "float32",
    )
    with strategy.scope():
        port = build_port(entry.model, weights, "float32")
        optimizer = build_optimizer(port, entry.solver, "float32")
        optimizer.build(port.trainable_variables)

    @tf.function
    def step() -> Any:
        return strategy.run(lambda: train_step(port, optimizer, given, True).total)

    step()
    found = []
    for _ in range(steps):
        begun = time.perf_counter()
        strategy.experimental_local_results(step())[0].numpy()
        found.append(time.perf_counter() - begun)
    return found


SERIES: dict[str, Callable[[], list[Point]]] = {
    "pixels": pixels,
    "images": images,
    "layers": layers,
    "classes": classes,
    "targets": targets,
    "replicas": replicas,
}


def measure(name: str, count: int, rounds: Rounds) -> None:
    """Times every point of a series in turns, after a first call that is not counted."""
    points = SERIES[name]()
    if name == "replicas":  # each number in a process of its own, which traces for a minute
        for point in points:
            for seconds in point.run(count):
                rounds.add(f"growth: {name}", f"{point.size:g} {point.work:g}", seconds)
        return
    for point in points:
        point.run()
    for _ in range(count):
        for point in points:
            begun = time.perf_counter()
            point.run()
            seconds = time.perf_counter() - begun
            rounds.add(f"growth: {name}", f"{point.size:g} {point.work:g}", seconds)


def main() -> None:
    """Prints and keeps every round, and the exponents."""
    from reports.chapters.timings import growth_table

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--series", nargs="*", default=[*SERIES], choices=SERIES)
    options = parser.parse_args()
    rounds = Rounds("growth")
    for name in options.series:
        measure(name, options.rounds, rounds)
    for row in growth_table(series(rounds.path)).rows:
        print("  ".join(cell.text for cell in row))


def series(kept_in: Path) -> list[Any]:
    """The growth of each series that was kept in a file of rounds."""
    from reports.chapters.timings import grown

    kept: dict[str, dict[str, list[float]]] = {}
    for one in read(kept_in):
        kept.setdefault(one.case, {}).setdefault(one.contestant, []).append(one.value)
    found = []
    for case, points in kept.items():
        sizes, work = zip(*(map(float, point.split()) for point in points), strict=True)
        seconds = [statistics.median(values) for values in points.values()]
        found.append(grown(case.removeprefix("growth: "), sizes, work, seconds))
    return found


if __name__ == "__main__":
    main()
