"""Panoptic quality of 640x480 id maps from memory: this project's counting beside torchmetrics'.

Both sides get the same pairs in turns, on one thread each; torchmetrics, which takes seconds an
image, only the first of them. It is no dependency of the project: without it only this project's
figures are printed. Peak memory is read from Linux.
"""

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.rounds import Rounds
from maskformer.data.panoptic_format import Category, Segment
from maskformer.metrics.panoptic_quality import PanopticCounts, PanopticPair, count_image, score
from maskformer.metrics.semantic_iou import count_images

THINGS, STUFF = 80, 53
CATEGORIES = {i: Category(i, f"class {i}", i < THINGS) for i in range(THINGS + STUFF)}
HEIGHT, WIDTH = 480, 640
SEGMENTS = 20
BLOCK = 5
MEMORY_PAIRS = 3

Pair = tuple[PanopticPair, np.ndarray, np.ndarray]
Counter = Callable[[list[Pair]], None]


def draw_map(generator: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """Index of the nearest point [H,W], with wavy borders: regions as large as COCO's segments."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    for axis in (y, x):
        phase = generator.uniform(0, 6.28, 2)
        axis += 9 * np.sin(x / 17 + phase[0]) * np.cos(y / 23 + phase[1])
    distances = [(y - point[0]) ** 2 + (x - point[1]) ** 2 for point in points]
    return np.argmin(distances, axis=0)


def draw_pair(seed: int) -> Pair:
    """A truth with 5 % void and a prediction with moved borders and some wrong classes.

    Returns the pair for this project, and both maps [1,H,W,2] (class, instance) for torchmetrics.
    """
    generator = np.random.default_rng(seed)
    points = generator.uniform(0, (HEIGHT, WIDTH), (SEGMENTS, 2))
    things = generator.integers(0, THINGS, SEGMENTS // 2)
    stuff = THINGS + generator.choice(STUFF, SEGMENTS - SEGMENTS // 2, replace=False)
    classes = np.concatenate([things, stuff])
    guessed = np.where(generator.random(SEGMENTS) < 0.2, generator.permutation(classes), classes)
    guessed[SEGMENTS // 2 :] = stuff  # a stuff class is one segment by definition
    regions = draw_map(generator, points)
    found = draw_map(generator, points + generator.normal(0, 12, points.shape))
    guessed[: SEGMENTS // 2] = np.where(
        guessed[: SEGMENTS // 2] < THINGS, guessed[: SEGMENTS // 2], things
    )
    names = generator.choice(2**24 - 1, SEGMENTS, replace=False) + 1
    void = int(generator.integers(SEGMENTS))
    names_with_void = np.where(np.arange(SEGMENTS) == void, 0, names)

    def segments(ids: np.ndarray, labels: np.ndarray, drawn: np.ndarray) -> tuple[Segment, ...]:
        areas = np.bincount(drawn.ravel(), minlength=SEGMENTS)
        return tuple(
            Segment(int(ids[i]), int(labels[i]), area=int(areas[i]))
            for i in range(SEGMENTS)
            if areas[i] and ids[i]
        )

    pair = PanopticPair(
        seed,
        names_with_void[regions].astype(np.int32),
        segments(names_with_void, classes, regions),
        names[found].astype(np.int32),
        segments(names, guessed, found),
    )
    outside = len(CATEGORIES)  # a class torchmetrics does not know is void to it
    true_classes = np.where(np.arange(SEGMENTS) == void, outside, classes)
    true = np.stack([true_classes[regions], regions], axis=-1)[None]
    predicted = np.stack([guessed[found], found], axis=-1)[None]
    return pair, predicted, true


def make_ours() -> tuple[Counter, Callable[[], float]]:
    """Counts a block, and the PQ of everything counted."""
    state = [PanopticCounts.zeros(len(CATEGORIES))]

    def count(block: list[Pair]) -> None:
        for pair, _, _ in block:
            state[0] = state[0] + count_image(pair, CATEGORIES)

    return count, lambda: score(state[0], CATEGORIES).groups["All"].pq


def make_torchmetrics() -> tuple[Counter, Callable[[], float]] | None:
    """The same with torchmetrics; None where it is not installed."""
    try:
        from torchmetrics.detection import PanopticQuality
    except ImportError:
        return None
    import torch

    torch.set_num_threads(1)
    stuff = set(range(THINGS, THINGS + STUFF))
    metric = PanopticQuality(set(range(THINGS)), stuff, allow_unknown_preds_category=True)

    def count(block: list[Pair]) -> None:
        for _, predicted, true in block:
            metric.update(torch.from_numpy(predicted), torch.from_numpy(true))

    return count, lambda: float(metric.compute())


SIDES = {"ours": make_ours, "torchmetrics": make_torchmetrics}


def peak_memory() -> float:
    """The largest resident size of this process since it was last reset, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def measure_memory(side: str) -> float:
    """Growth of the peak resident memory, in MiB, while `side` counts pairs made beforehand."""
    count, _ = SIDES[side]()
    block = [draw_pair(seed) for seed in range(MEMORY_PAIRS)]
    count(block[:1])  # what is loaded on first use is not the images'
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, see Linux' proc(5)
    before = peak_memory()
    count(block)
    return peak_memory() - before


def in_fresh_process(side: str) -> float:
    """`measure_memory` in a new process, whose large arrays give their pages back when they end."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # else the peak hides in what malloc retains
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(measure_memory, side).result()


def count_semantic(rounds: Rounds, pairs: int) -> float:
    """Images a second of the confusion matrix that mean IoU is computed from, on one thread.

    Its maps are int32, as `EvaluationData.labels` gives them.
    """
    seconds = []
    for start in range(0, pairs, BLOCK):
        block = [draw_pair(seed)[1:] for seed in range(start, min(start + BLOCK, pairs))]
        maps = [
            [side[0, :, :, 0].astype(np.int32) for side in (true, predicted)]
            for predicted, true in block
        ]
        began = time.process_time()
        count_images(maps, len(CATEGORIES) + 1)
        seconds.append((time.process_time() - began) / len(block))
        rounds.add("mean_iou", "ours", 1 / seconds[-1], "images/s")
    return 1 / statistics.median(seconds)


def run(pairs: int, compared: int) -> dict[str, Any]:
    """Times this side on `pairs` pairs, torchmetrics on the first `compared` of them.

    Seconds are of CPU, per image, median over blocks; the PQ of each side is of what it counted.
    """
    made = {side: make() for side, make in SIDES.items()}
    sides = [side for side, counter in made.items() if counter]
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    pq: dict[str, dict[int, float]] = {side: {} for side in sides}
    rounds = Rounds("metrics")
    for start in range(0, pairs, BLOCK):
        block = [draw_pair(seed) for seed in range(start, min(start + BLOCK, pairs))]
        taking_part = [side for side in sides if side == "ours" or start < compared]
        for side in taking_part if (start // BLOCK) % 2 else reversed(taking_part):
            began = time.process_time()
            made[side][0](block)
            seconds[side].append((time.process_time() - began) / len(block))
            rounds.add("panoptic_quality", side, 1 / seconds[side][-1], "images/s")
        if taking_part == sides:
            for side in sides:
                pq[side][start + len(block)] = made[side][1]()
    figures = {
        side: {
            "images_per_second": 1 / statistics.median(seconds[side]),
            "milliseconds_per_image": 1000 * statistics.median(seconds[side]),
            "peak_memory_growth_mib": in_fresh_process(side),
            "pairs": min(len(seconds[side]) * BLOCK, pairs),
        }
        for side in sides
    }
    result = {"height": HEIGHT, "width": WIDTH, "segments": SEGMENTS} | figures
    result["mean_iou_images_per_second"] = count_semantic(rounds, pairs)
    if "torchmetrics" in sides:
        ratios = [b / a for a, b in zip(seconds["ours"], seconds["torchmetrics"], strict=False)]
        result["speed_ratio"] = statistics.median(ratios)
        result["largest_pq_gap"] = max(
            abs(value - pq["torchmetrics"][count]) for count, value in pq["ours"].items()
        )
    return result


def main(
    pairs: Annotated[int, typer.Option(min=BLOCK, help="Pairs of maps to count.")] = 500,
    compared: Annotated[
        int, typer.Option(min=1, help="How many of them torchmetrics counts too.")
    ] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
) -> None:
    """Time panoptic quality against torchmetrics.

    Example: python -m benchmarks.metrics --pairs 500 --compared 15 --json
    """
    result = run(pairs, compared)
    if as_json:
        print(json.dumps(result))
        return
    table = Table(title=f"Panoptic quality, {WIDTH}x{HEIGHT}, one thread")
    for heading in ("", "pairs", "images/s", "ms/image", "memory growth, MiB"):
        table.add_column(heading, justify="right")
    for side in SIDES:
        if side in result:
            figures = result[side]
            table.add_row(
                side,
                str(figures["pairs"]),
                f"{figures['images_per_second']:.2f}",
                f"{figures['milliseconds_per_image']:.2f}",
                f"{figures['peak_memory_growth_mib']:.1f}",
            )
    Console().print(table)
    if "speed_ratio" in result:
        print(
            f"ours is {result['speed_ratio']:.0f} times as fast (median over blocks); "
            f"the PQs differ by at most {result['largest_pq_gap']:.1e}"
        )
    else:
        print("torchmetrics is not installed, so there is nothing to compare with")


if __name__ == "__main__":
    typer.run(main)
