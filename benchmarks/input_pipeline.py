"""Training images per second and core: the tf.data pipeline beside the PyTorch loader, in one run.

Example: python -m benchmarks.input_pipeline --images 32 --rounds 5 --json result.json
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.rounds import Rounds
from maskformer.data.batching import COCO_BUCKETS
from maskformer.data.dataset_layout import open_split
from maskformer.model.inputs import CropConfig, InputConfig
from maskformer.scenes.scenes import write_scenes

CONFIGS = {
    "detr_panoptic": InputConfig(
        "detr_panoptic",
        (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
        1333,
        CropConfig("absolute_range", (384, 600)),
    ),
    "mask_former_semantic": InputConfig(
        "mask_former_semantic",
        tuple(int(x * 0.1 * 512) for x in range(5, 21)),
        2048,
        CropConfig("absolute", (512, 512)),
        True,
        512,
    ),
}
"""The published COCO panoptic and ADE20K settings."""

BUCKETS = {"detr_panoptic": COCO_BUCKETS, "mask_former_semantic": ((512, 512),)}
BATCH = 2
CAPACITY = 64
SIDES = ("torch", "tf exact", "tf fast")


def _batches(side: str, mapper: str, folder: Path) -> Iterator[Any]:
    """Endless batches of one side, restricted to one thread where it has a choice."""
    shared = {"batch_size": BATCH, "buckets": BUCKETS[mapper]}
    if side == "torch":
        import torch

        import torch_reference.dataset

        torch.set_num_threads(1)
        source = open_split(*_source(mapper, folder))
        data = torch_reference.dataset.TrainingData(source, CONFIGS[mapper], 0, CAPACITY)
        return iter(torch_reference.dataset.training_loader(data, **shared))
    import tensorflow as tf

    import tf_impl.dataset
    from tf_impl.storage.tfrecord import RecordFolder

    records = RecordFolder(folder / mapper)
    data = tf_impl.dataset.TrainingData(records, CONFIGS[mapper], 0, CAPACITY, side == "tf exact")
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    dataset = tf_impl.dataset.training_dataset(data, parallel_calls=1, **shared)
    return iter(dataset.with_options(options))


def _settle() -> float:
    """CPU seconds of this process once its background threads are idle."""
    before = time.process_time()
    while True:
        time.sleep(0.3)
        now = time.process_time()
        if now - before < 0.01:
            return now
        before = now


def _serve(pipe: Connection, side: str, mapper: str, folder: Path) -> None:
    """A process that, for every number it receives, makes so many batches and reports CPU seconds.

    Counting from idle to idle charges every batch once, whatever the pipeline prepares ahead.
    """
    batches = _batches(side, mapper, folder)
    next(batches)
    pipe.send(None)
    while (count := pipe.recv()) is not None:
        start = _settle()
        for _ in range(count):
            next(batches)
        pipe.send(_settle() - start)


def _source(mapper: str, folder: Path) -> tuple[Path, str]:
    if mapper == "detr_panoptic":
        return folder / "coco", "train2017"
    return folder / "ADEChallengeData2016", "training"


def compare(mapper: str, folder: Path, images: int, rounds: int, kept: Rounds) -> dict:
    """Medians of all sides and their ratios for one mapper, measured in turns."""
    import tf_impl.dataset
    from tf_impl.storage.tfrecord import RecordFolder, write_records

    root, split = _source(mapper, folder)
    write_records(open_split(root, split), folder / mapper, split, 2)
    count = max(1, images // BATCH)
    context = get_context("spawn")
    processes, pipes = [], {}
    for side in SIDES:
        pipes[side], theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, side, mapper, folder), daemon=True)
        process.start()
        processes.append(process)
    for side in SIDES:
        pipes[side].recv()
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            pipes[side].send(count)
            rate = kept.add(mapper, side, count * BATCH / pipes[side].recv(), "images/s")
            rates[side].append(rate)
    for side in SIDES:
        pipes[side].send(None)
    for process in processes:
        process.join()
    medians = {side: statistics.median(values) for side, values in rates.items()}
    data = tf_impl.dataset.TrainingData(RecordFolder(folder / mapper), CONFIGS[mapper], 0, CAPACITY)
    return {
        "images_per_cpu_second": medians,
        "rounds": rates,
        "ratio_fast": medians["tf fast"] / medians["torch"],
        "ratio_exact": medians["tf exact"] / medians["torch"],
        "difference": tf_impl.dataset.difference(data, range(8)),
    }


def main() -> None:
    """Runs the benchmark on procedural scenes of COCO's size and prints a table or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=32, help="images per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=640, help="longest side of a photograph")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "versions": {name: version(name) for name in ("tensorflow", "torch", "pillow", "numpy")},
        "images_per_round": arguments.images,
        "size": arguments.size,
    }
    kept = Rounds("input_pipeline")
    with tempfile.TemporaryDirectory() as scratch, Progress(transient=True) as progress:
        scenes = progress.add_task("scenes", total=arguments.images + 2)
        write_scenes(
            scratch,
            arguments.images + 2,
            size=arguments.size,
            val_share=1 / (arguments.images + 2),
            advance=lambda: progress.advance(scenes),
        )
        for mapper in CONFIGS:
            result[mapper] = compare(
                mapper, Path(scratch), arguments.images, arguments.rounds, kept
            )
    for mapper in CONFIGS:
        row = result[mapper]
        rates = "  ".join(f"{k} {v:.1f}" for k, v in row["images_per_cpu_second"].items())
        gap = row["difference"]
        print(f"{mapper}: images per second and core: {rates}")
        print(f"  fast / torch {row['ratio_fast']:.2f}x, exact / torch {row['ratio_exact']:.2f}x")
        print(
            f"  fast against Pillow: largest difference {gap['largest']} level(s), "
            f"{100 * gap['share']:.2f} % of the values; targets differ in {gap['targets']} places"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
