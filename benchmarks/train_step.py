"""One full training step, TensorFlow beside PyTorch: forward, matching, losses, backward, update.

    python -m benchmarks.train_step [--config coco_r50] [--size 256x256] [--batch 2] [--json]

Both sides start from the same weights and train on the same batch, dropout on, with the same
solver and thread count; their steps take turns. Peak memory is that of a process of its own.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.rounds import Rounds

CONTESTANTS = ("torch eager", "torch compile", "tf graph", "tf xla")
MEMORY_STEPS = 2


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="coco_r50")
    parser.add_argument("--size", default="256x256", help="HxW in pixels")
    parser.add_argument("--batch", type=int, default=2, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of each framework")
    parser.add_argument("--targets", type=int, default=0, help="pad to so many; 0: the most there")
    parser.add_argument("--only", choices=CONTESTANTS, action="append", help="may be repeated")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", choices=CONTESTANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def contestants(arguments: argparse.Namespace, wanted: Any) -> dict[str, Callable[[], float]]:
    """One step of each contestant in `wanted`; each returns the loss when the weights are new."""
    from maskformer.data.images import batch_images, parse_size, synthetic_image
    from maskformer.data.targets import label_map, synthetic_targets
    from maskformer.model import zoo
    from replication.sides.tf_side import build_port
    from replication.sides.torch_side import build_reference, reference_batch
    from replication.sides.weights import load_weights

    entry = zoo.get(arguments.config)
    config = entry.model
    weights = load_weights("seeded:0", config)
    height, width = parse_size(arguments.size)
    images, sizes = batch_images(
        [synthetic_image(height, width, index) for index in range(arguments.batch)], config
    )
    targets: Any = synthetic_targets(config, sizes, images.shape[1:3])
    if config.is_per_pixel:
        targets = label_map(targets, config.ignore_value)
    runs: dict[str, Callable[[], float]] = {}

    if any(name.startswith("torch") for name in wanted):
        import torch

        from torch_reference import optimizer, train_step

        model = build_reference(config, weights, "float32").train()
        solver = optimizer.build_optimizer(model, entry.solver)
        batch = reference_batch(config, images, sizes, targets, "float32")

        def run_torch(trained: Any) -> Callable[[], float]:
            return lambda: float(train_step.train_step(trained, solver, batch).total)

        runs["torch eager"] = run_torch(model)
        # The wrapper forwards attributes, so the step finds the configuration and the criterion.
        runs["torch compile"] = run_torch(torch.compile(model))

    if any(name.startswith("tf") for name in wanted):
        from replication.sides.tf_side import port_batch

        most = arguments.targets or None
        port = build_port(config, weights, "float32")
        given = port_batch(config, images, sizes, targets, "float32", most)

        from tf_impl.optimizer import build_optimizer
        from tf_impl.train_step import compiled_step

        updates = build_optimizer(port, entry.solver, "float32")

        def run_tf(jit_compile: bool) -> Callable[[], float]:
            step = compiled_step(port, updates, training=True, jit_compile=jit_compile)
            return lambda: float(step(given).total)

        runs["tf graph"], runs["tf xla"] = run_tf(False), run_tf(True)
    return {name: runs[name] for name in CONTESTANTS if name in wanted}


def measure(
    runs: dict[str, Callable[[], float]], rounds: int, kept: Rounds, case: str
) -> tuple[dict[str, list[float]], dict[str, float], dict[str, str]]:
    """Seconds of each step, seconds of the first, compiling one, and why a contestant is out."""
    first, failed = {}, {}
    for name, run in runs.items():
        start = time.perf_counter()
        try:
            loss = run()
        except Exception as error:  # a compiler that cannot do it is a result
            failed[name] = (str(error).strip().splitlines() or [type(error).__name__])[0]
            print(f"{name}: {failed[name]}", file=sys.stderr)
            continue
        first[name] = kept.add(f"{case}, first step", name, time.perf_counter() - start)
        print(f"{name}: loss {loss:.3f}", file=sys.stderr)
    seconds: dict[str, list[float]] = {name: [] for name in first}
    for _ in range(rounds):
        for name in first:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(kept.add(case, name, time.perf_counter() - start))
    return seconds, first, failed


def peak_memory(name: str) -> int | None:
    """Largest resident bytes of a process that takes a few steps of one contestant."""
    print(f"{name}: peak memory", file=sys.stderr)
    command = [sys.executable, "-m", "benchmarks.train_step", *sys.argv[1:], "--peak", name]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return int(run.stdout.splitlines()[-1]) if run.returncode == 0 else None


def set_threads(count: int, wanted: Any) -> None:
    """The frameworks of the contestants in `wanted` compute with `count` threads."""
    if any(name.startswith("torch") for name in wanted):
        import torch

        torch.set_num_threads(count)
    if any(name.startswith("tf") for name in wanted):
        import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)

        import tensorflow as tf  # isort: skip

        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)


def main() -> None:
    """Prints medians, ratios to torch eager, and peak memory."""
    arguments = parse_arguments()
    warnings.simplefilter("ignore")
    wanted = [arguments.peak] if arguments.peak else arguments.only or CONTESTANTS
    set_threads(arguments.threads, wanted)
    if arguments.peak:
        (run,) = contestants(arguments, wanted).values()
        for _ in range(MEMORY_STEPS):
            run()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    case = f"{arguments.config} {arguments.size} batch {arguments.batch}"
    seconds, first, failed = measure(
        contestants(arguments, wanted), arguments.rounds, Rounds("train_step"), case
    )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians.get("torch eager")
    result = {
        "config": arguments.config,
        "size": arguments.size,
        "batch": arguments.batch,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "median_seconds": medians,
        "least_seconds": {name: min(values) for name, values in seconds.items()},
        "ratio_to_torch_eager": {n: v / base for n, v in medians.items()} if base else {},
        "first_step_seconds": first,
        "failed": failed,
        "all_seconds": seconds,
    }
    if not arguments.no_memory:
        result["peak_bytes"] = {name: peak_memory(name) for name in seconds}
    if arguments.json:
        print(json.dumps(result))
        return
    print(
        f"{arguments.config}, {arguments.size}, batch {arguments.batch}, "
        f"{arguments.threads} threads, {arguments.rounds} rounds"
    )
    for name, value in medians.items():
        spread = f"{np.min(seconds[name]):.3f} to {np.max(seconds[name]):.3f}"
        ratio = f", {value / base:.2f}x torch eager" if base else ""
        memory = result.get("peak_bytes", {}).get(name)
        peak = f", peak {memory / 2**30:.2f} GiB" if memory else ""
        print(f"  {name:14} {value:7.3f} s ({spread}){ratio}{peak}")
    for name, why in failed.items():
        print(f"  {name:14} did not run: {why}")


if __name__ == "__main__":
    main()
