"""Evaluates one or both implementations on a data set: PQ, mIoU, and where the two disagree.

Predictions are written as files first and scored from them by the strict readers, so that what is
scored is what a user gets.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from maskformer.data.evaluation_data import EvaluationData, open_data
from maskformer.model.config import ModelConfig
from maskformer.model.inputs import InputConfig
from parity.errors import InputError
from parity.files import output_folder
from parity.records import write_json
from replication.console.progress import images_shown
from replication.evaluation.disagreement import Disagreement, Margins, disagreement
from replication.evaluation.predicted import Predicted, predict_all
from replication.evaluation.scores import Scored, agreement, compare, score
from replication.evaluation.worst_images import draw_worst
from replication.sides.implementation import Implementation
from replication.sides.side import IMPLEMENTATIONS, PORT, open_side
from replication.sides.tf_side import with_products
from replication.sides.weights import Weights, load_weights
from reports.chapters.evaluation_result import (
    EvaluationComparison,
    EvaluationResult,
    ImageDifference,
)
from reports.loading import load
from reports.render import write_report

MARGIN = 0.001
"""Scores (0..1) closer than this count as equivalent: 0.1 points, the last digit papers print."""


@dataclass(frozen=True)
class Request:
    """What to evaluate.

    `data` is the data set's folder; `limit` its first images only; `augmented` means multi-scale
    and mirrored testing of labels; `worst` is how many images to draw; `workers` are threads.
    The port has the reference's `weights`, or those of a file of its own, `port_weights`. With
    `products` the second side is TensorFlow with products in so many passes of bfloat16, the first
    TensorFlow as it is; `sides` are not looked at.
    """

    config: ModelConfig
    inputs: InputConfig
    weights: str
    data: Path
    sides: tuple[str, ...]
    split: str = "val"
    limit: int | None = None
    augmented: bool = False
    worst: int = 4
    margin: float = MARGIN
    resamples: int = 2000
    workers: int = 2
    port_weights: str | None = None
    products: int = 0
    command: str = "parity evaluate"


def evaluate(request: Request, out: Path | None = None, visible: bool = True) -> EvaluationResult:
    """The scores, in 0..1, and how two sides compare.

    The verdict is "evaluated" for one side, and where the second has rounded products; for both it
    is "equal" where no pixel differs but by a decision within float32 rounding, else "different".
    `out` receives evaluation.json, a report, each side's predictions (COCO panoptic JSON and PNGs,
    label PNGs) and pictures of the worst images: all of it or nothing.
    Raises InputError for data, weights and images that cannot be used.
    """
    _check(request)
    start = time.perf_counter()
    data = open_data(request.data, request.split, request.config, request.limit)
    weights = load_weights(request.weights, request.config)
    sides = _sides(request)
    by_side = dict.fromkeys(sides, weights)
    own: Weights | None = None
    if request.port_weights is not None:
        own = by_side[PORT] = load_weights(request.port_weights, request.config)
    with output_folder(out) as folder:
        predicted, scored, seconds = {}, {}, {}
        for name, implementation in sides.items():
            side = open_side(
                implementation, request.config, request.inputs, by_side[name], data.canvas
            )
            began = time.perf_counter()
            with images_shown(f"predict, {name}", data.count, visible) as advance:
                predict_all(side, data, folder / name, request.augmented, advance)
            seconds[name] = round(time.perf_counter() - began, 3)
            predicted[name] = Predicted(folder / name, data)
            scored[name] = score(data, predicted[name], request.resamples, request.workers)
        verdict, comparison, pictures = "evaluated", None, ()
        found: list[Disagreement | None] = [None] * data.count
        if len(sides) == 2:
            margins = Margins(request.config, request.inputs, weights)
            with images_shown("compare", data.count, visible) as advance:
                found = _disagreements(data, list(predicted.values()), margins, advance)
            comparison = _compared(data, request, found, predicted, scored)
            if not request.products:
                verdict = "different" if comparison.unexplained else "equal"
        if out is not None:
            first = next(iter(scored.values()))
            pictures = draw_worst(folder / "worst", data, predicted, first, found, request.worst)
        result = EvaluationResult(
            verdict=verdict,
            config=request.config.name,
            config_sha256=request.config.digest,
            weights=weights.source,
            weights_sha256=weights.sha256,
            port_weights=own.source if own else "",
            port_weights_sha256=own.sha256 if own else None,
            data=str(request.data),
            layout=data.images.kind,
            split=data.split,
            images=data.count,
            products=request.products,
            test_size=(request.inputs.min_size_test, request.inputs.max_size_test),
            augmented=request.augmented,
            sides={
                name: replace(one.result, seconds=seconds[name]) for name, one in scored.items()
            },
            comparison=comparison,
            pictures=tuple(pictures),
            command=request.command,
            versions=_versions(),
            seconds=round(time.perf_counter() - start, 3),
        )
        if out is not None:
            write_json(result.to_json(), folder, "evaluation.json")
            write_report(load([folder / "evaluation.json"]), folder)
    return result


def _versions() -> dict[str, str]:
    """Versions of the packages that took part: those that are loaded."""
    names = (*(one.package for one in IMPLEMENTATIONS.values()), "numpy", "PIL")
    return {name: sys.modules[name].__version__ for name in names if name in sys.modules}


def _sides(request: Request) -> dict[str, Implementation]:
    """What is evaluated, by name."""
    if not request.products:
        return {name: IMPLEMENTATIONS[name] for name in request.sides}
    rounded = with_products(request.products)
    return {PORT: IMPLEMENTATIONS[PORT], rounded.name: rounded}


def _check(request: Request) -> None:
    """Raises InputError for a combination of options that has no meaning."""
    theirs, ours = IMPLEMENTATIONS.values()
    if request.products and (request.port_weights is not None or request.augmented):
        other = "--tta" if request.augmented else "--port-weights"
        raise InputError(
            f"--products does not go with {other}",
            f"it compares {ours.title} with itself, one image at one scale",
            "leave one of the two out",
        )
    if request.port_weights is not None and len(request.sides) != 2:
        raise InputError(
            f"--port-weights does not go with --side {request.sides[0]}",
            f"they are {ours.title}'s, beside --weights for {theirs.title}",
            "leave --side out, or give the one checkpoint as --weights",
        )
    if request.augmented and request.config.inference.panoptic_on:
        raise InputError(
            f"--tta does not fit {request.config.name}",
            "multi-scale testing averages class scores; panoptic segments are not made of them",
            "Use it with a semantic config.",
        )
    if request.augmented and len(request.sides) == 2:
        raise InputError(
            "--tta does not go with --side both",
            "disagreements are explained by the margins of single-scale scores",
            "Evaluate each side with --tta by itself.",
        )


def _disagreements(
    data: EvaluationData,
    predicted: Sequence[Predicted],
    margins: Margins,
    advance: Callable[[], None],
) -> list[Disagreement | None]:
    """What differs between two sides' files, image by image; None where nothing does."""
    found = []
    for index in range(data.count):
        labels = [one.labels(index) for one in predicted]
        segments = None
        if predicted[0].panoptic is not None:
            segments = [one.segments(index) for one in predicted]

        def certain(index: int = index):
            return margins.certain(data.photograph(index))

        found.append(disagreement(labels, segments, certain))
        advance()
    return found


def _compared(
    data: EvaluationData,
    request: Request,
    found: Sequence[Disagreement | None],
    predicted: Mapping[str, Predicted],
    scored: Mapping[str, Scored],
) -> EvaluationComparison:
    rows = tuple(
        ImageDifference(
            data.name(index),
            one.panoptic_pixels,
            one.label_pixels,
            one.segments,
            one.unexplained_pixels,
        )
        for index, one in enumerate(found)
        if one is not None
    )
    records = data.images.records[: data.count]
    return EvaluationComparison(
        of=" - ".join(reversed(scored)),
        images_that_differ=len(rows),
        pixels=sum(record.height * record.width for record in records),
        panoptic_pixels=sum(row.panoptic_pixels for row in rows),
        label_pixels=sum(row.label_pixels for row in rows),
        segments=sum(row.segments for row in rows),
        unexplained=sum(row.unexplained for row in rows),
        disagreements=rows,
        agreement=agreement(*predicted.values(), request.workers),
        scores=compare(*scored.values(), request.margin, request.resamples),
    )
