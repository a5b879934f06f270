"""Training images per second and core: the tf.data pipeline beside the PyTorch loader, in one run.

Example: python benchmarks/input_pipeline.py --images 32 --rounds 5 --json result.json
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import tensorflow as tf
import torch
from rich.progress import Progress

import tf_impl.dataset
import torch_reference.dataset
from maskformer.batching import COCO_BUCKETS
from maskformer.dataset_layout import open_split
from maskformer.inputs import CropConfig, InputConfig
from maskformer.scenes import write_scenes
from tf_impl.tfrecord import RecordFolder, write_records

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


def _measure(batches: Iterator[Any], images: int, rounds: int, tick: Callable[[], None]) -> Any:
    """Yields, per round, images per CPU second: the process's time over all its threads."""
    next(batches)
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(max(1, images // BATCH)):
            next(batches)
        seconds = time.process_time() - start
        tick()
        yield max(1, images // BATCH) * BATCH / seconds


def compare(mapper: str, folder: Path, images: int, rounds: int, tick: Callable[[], None]) -> dict:
    """Medians of both sides and their ratio for one mapper, measured in turns."""
    root, split = (
        (folder / "coco", "train2017")
        if mapper == "detr_panoptic"
        else (folder / "ADEChallengeData2016", "training")
    )
    source = open_split(root, split)
    write_records(source, folder / mapper, split, 2)
    records = RecordFolder(folder / mapper)
    shared = {"batch_size": BATCH, "buckets": BUCKETS[mapper]}
    sides = {
        "torch": iter(
            torch_reference.dataset.training_loader(
                source, CONFIGS[mapper], seed=0, capacity=CAPACITY, **shared
            )
        )
    }
    for name, exact in (("tf exact", True), ("tf fast", False)):
        data = tf_impl.dataset.TrainingData(records, CONFIGS[mapper], 0, CAPACITY, exact)
        dataset = tf_impl.dataset.training_dataset(data, parallel_calls=1, **shared)
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        options.threading.max_intra_op_parallelism = 1
        sides[name] = iter(dataset.with_options(options))
    running = {name: _measure(side, images, rounds, tick) for name, side in sides.items()}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in running.items():
            rates[name].append(next(side))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "images_per_cpu_second": medians,
        "rounds": rates,
        "ratio_fast": medians["tf fast"] / medians["torch"],
        "ratio_exact": medians["tf exact"] / medians["torch"],
        "difference": tf_impl.dataset.difference(
            tf_impl.dataset.TrainingData(records, CONFIGS[mapper], 0, CAPACITY), range(8)
        ),
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
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "torch": torch.__version__,
            "pillow": PIL.__version__,
            "numpy": np.__version__,
        },
        "images_per_round": arguments.images,
        "size": arguments.size,
    }
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
            task = progress.add_task(mapper, total=3 * arguments.rounds)
            result[mapper] = compare(
                mapper,
                Path(scratch),
                arguments.images,
                arguments.rounds,
                lambda task=task: progress.advance(task),
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
