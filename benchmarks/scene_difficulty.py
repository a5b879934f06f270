"""How hard procedural scenes are: PQ of simple models, and of truths degraded as good models err.

Example: python -m benchmarks.scene_difficulty --images 32 --json
"""

import json
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from scipy import ndimage
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from maskformer.data.panoptic_format import Segment
from maskformer.metrics.panoptic_quality import (
    PanopticCounts,
    PanopticPair,
    as_sample,
    count_image,
    score,
)
from maskformer.metrics.statistics import bootstrap_interval
from maskformer.scenes.scenes import CATEGORIES, IGNORED, Scene, draw_scene

BY_ID = {category.id: category for category in CATEGORIES}
LEAST_THING, LEAST_STUFF = 20, 200  # pixels of a predicted segment
PIXELS = 600  # drawn from each training scene
COLOUR, ALL = slice(0, 3), slice(0, 16)
DEGRADED = {
    "truth": (0.0, 0.0, 0.0),
    "borders off by 1 px": (1.0, 0.0, 0.0),
    "borders off by 2 px": (2.0, 0.0, 0.0),
    "1 px, half of 8 px things missed, 5 % of classes wrong": (1.0, 8.0, 0.05),
    "2 px, half of 12 px things missed, 10 % of classes wrong": (2.0, 12.0, 0.1),
}
"""Root mean square of a border's shift, side of a thing that is missed half the time, and the share
of segments of a wrong class."""


def features(image: np.ndarray) -> np.ndarray:
    """Colour, mean and spread of colours in two neighbourhoods, and height: [H*W,16] float32."""
    planes = image.astype(np.float32).transpose(2, 0, 1)
    found = list(planes)
    for size in (5, 15):
        for plane in planes:
            mean = ndimage.uniform_filter(plane, size)
            square = ndimage.uniform_filter(plane * plane, size)
            found += [mean, np.sqrt(np.maximum(square - mean * mean, 0))]
    height, width = image.shape[:2]
    rows = np.linspace(0, 100, height, dtype=np.float32)
    found.append(np.repeat(rows[:, None], width, axis=1))
    return np.stack(found, axis=-1).reshape(-1, len(found))


def predicted(labels: np.ndarray) -> tuple[np.ndarray, tuple[Segment, ...]]:
    """Segments of predicted classes [H,W]: one per stuff class, one per connected thing."""
    ids, segments = np.zeros(labels.shape, np.int32), []
    for label in np.unique(labels):
        category = CATEGORIES[label]
        parts, least = (labels == label).astype(np.int32), LEAST_STUFF
        if category.isthing:
            parts, least = ndimage.label(parts)[0], LEAST_THING
        for part in np.flatnonzero(np.bincount(parts.ravel()) >= least):
            if part:
                segments.append(Segment(len(segments) + 1, category.id))
                ids[parts == part] = len(segments)
    return ids, tuple(segments)


def degraded(
    scene: Scene, rng: np.random.Generator, shift: float, missed: float, wrong: float
) -> tuple[np.ndarray, tuple[Segment, ...]]:
    """The truth with errors (`DEGRADED`), void filled by what is nearest."""
    filled = scene.ids
    if (filled == 0).any():
        nearest = ndimage.distance_transform_edt(
            filled == 0, return_distances=False, return_indices=True
        )
        filled = filled[tuple(nearest)]
    waves = [ndimage.gaussian_filter(rng.normal(size=filled.shape), 4) for _ in range(2)]
    moved = [
        np.clip(np.rint(place + shift * wave / wave.std()), 0, limit - 1).astype(int)
        for place, wave, limit in zip(np.indices(filled.shape), waves, filled.shape, strict=True)
    ]
    filled = filled[tuple(moved)]
    ids, segments, stuff = np.zeros(filled.shape, np.int32), [], {}
    for segment in scene.segments:
        category, mask = BY_ID[segment.category_id], filled == segment.id
        lucky = rng.random() >= 0.5 ** (segment.area**0.5 / missed) if missed else True
        confused = rng.random() < wrong
        if not mask.any() or (category.isthing and not lucky):
            continue
        if confused:
            others = [c for c in CATEGORIES if c.isthing == category.isthing and c != category]
            category = others[int(rng.integers(len(others)))]
        if category.id not in stuff:
            segments.append(Segment(len(segments) + 1, category.id))
        number = stuff.get(category.id, len(segments))
        if not category.isthing:
            stuff[category.id] = number
        ids[mask] = number
    return ids, tuple(segments)


def quality(scenes: list[Scene], found: list[tuple[np.ndarray, tuple[Segment, ...]]]) -> dict:
    """PQ of all, things and stuff in percent, and the 95 % interval of the first."""
    counts = PanopticCounts.stack(
        [
            count_image(PanopticPair(i, scene.ids, scene.segments, *one), BY_ID)
            for i, (scene, one) in enumerate(zip(scenes, found, strict=True))
        ]
    )
    groups = score(counts.total(), BY_ID).groups
    interval = bootstrap_interval(as_sample(counts, BY_ID, "All"))
    figures = {name: 100 * one.pq for name, one in groups.items()}
    return figures | {"low": 100 * interval.low, "high": 100 * interval.high}


def training_pixels(scenes: list[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Features [N,16] and classes [N] of labelled pixels, drawn from every scene."""
    rng, rows, classes = np.random.default_rng(0), [], []
    for scene in scenes:
        labels = scene.labels.ravel()
        known = np.flatnonzero(labels != IGNORED)
        chosen = rng.choice(known, min(PIXELS, len(known)), replace=False)
        rows.append(features(scene.image)[chosen])
        classes.append(labels[chosen])
    return np.concatenate(rows), np.concatenate(classes)


def run(images: int, size: int, show: bool) -> dict:
    """The figures of every simple model and every degraded truth, and what the things are like."""
    console = Console(stderr=True)

    def drawn(split: str) -> Iterator[Scene]:
        indices = track(range(images), f"draw {split}", console=console, disable=not show)
        scenes = (draw_scene(0, split, index, size) for index in indices)
        return (scene for scene in scenes if scene.segments)

    rows, classes = training_pixels(list(drawn("train")))
    scenes = list(drawn("val"))
    simple = {
        "nearest mean colour": (NearestCentroid(), COLOUR),
        "nearest mean of colour, texture and height": (
            make_pipeline(StandardScaler(), NearestCentroid()),
            ALL,
        ),
    }
    result: dict = {"images": len(scenes), "size": size}
    for name, (model, columns) in simple.items():
        model.fit(rows[:, columns], classes)
        found = []
        for scene in track(scenes, name, console=console, disable=not show):
            labels = model.predict(features(scene.image)[:, columns]).reshape(scene.ids.shape)
            found.append(predicted(ndimage.median_filter(labels, 5)))
        result[name] = quality(scenes, found)
    for name, errors in DEGRADED.items():
        rng = np.random.default_rng(1)
        result[name] = quality(scenes, [degraded(scene, rng, *errors) for scene in scenes])
    sides = np.sqrt(
        [
            segment.area
            for scene in scenes
            for segment in scene.segments
            if BY_ID[segment.category_id].isthing and not segment.iscrowd
        ]
    )
    result["things"] = {
        "per image": len(sides) / len(scenes),
        "median side": float(np.median(sides)),
        "below 8 px": float((sides < 8).mean()),
        "below 32 px": float((sides < 32).mean()),
    }
    return result


def main(
    images: Annotated[int, typer.Option(min=2, help="Scenes to learn from, and to score.")] = 32,
    size: Annotated[int, typer.Option(min=32, help="Longest side in pixels, about.")] = 320,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
) -> None:
    """Score simple models and degraded truths on procedural scenes.

    Example: python -m benchmarks.scene_difficulty --images 32 --json
    """
    result = run(images, size, show=not as_json)
    if as_json:
        print(json.dumps(result))
        return
    for name, figures in result.items():
        if isinstance(figures, dict) and "All" in figures:
            print(
                f"{name}: PQ {figures['All']:.1f} [{figures['low']:.1f}, {figures['high']:.1f}], "
                f"things {figures['Things']:.1f}, stuff {figures['Stuff']:.1f}"
            )
    things = result["things"]
    print(
        f"{result['images']} scenes, {things['per image']:.1f} things each, median side "
        f"{things['median side']:.0f} px, {things['below 8 px']:.0%} below 8 px"
    )


if __name__ == "__main__":
    typer.run(main)
