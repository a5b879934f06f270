"""Pictures of the images on which two sides differ most, or on which one scores least."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from maskformer.data.evaluation_data import EvaluationData
from replication.evaluation import pictures
from replication.evaluation.disagreement import Disagreement
from replication.evaluation.predicted import Predicted
from replication.evaluation.scores import Scored, image_scores


def draw_worst(
    folder: Path,
    data: EvaluationData,
    predicted: Mapping[str, Predicted],
    scored: Scored,
    found: Sequence[Disagreement | None],
    count: int,
) -> list[str]:
    """Draws `count` images into `folder`; returns the files' names below its parent.

    First come images with pixels that rounding does not explain, then those with pixels that
    differ, then those with the lowest scores. Each picture has the photograph, the truth, every
    side's prediction, and the differing pixels where there are any: yellow explained, red not.
    """
    values = image_scores(scored)

    def rank(index: int) -> tuple[int, int, float]:
        one = found[index]
        value = 2.0 if np.isnan(values[index]) else float(values[index])
        if one is None:
            return 0, 0, value
        return -one.unexplained_pixels, -int(one.differs.sum()), value

    folder.mkdir()
    names = []
    for number, index in enumerate(sorted(range(data.count), key=rank)[:count], 1):
        image = data.photograph(index)
        image = pictures.enlarged(image)
        panels = [("photograph", image), ("truth", _truth(data, index, image))]
        panels += [(name, _prediction(one, index, image)) for name, one in predicted.items()]
        if (one := found[index]) is not None:
            title = f"{int(one.differs.sum())} differ, {one.unexplained_pixels} unexplained"
            maps = (pictures.enlarged(x) for x in (one.differs, one.unexplained))
            drawn = pictures.difference_picture(image, *maps)
            panels.append((title, drawn))
        name = f"{number}_{data.images.records[index].image_path.stem}.png"
        pictures.side_by_side(panels).save(folder / name)
        names.append(f"{folder.name}/{name}")
    return names


def _truth(data: EvaluationData, index: int, image: np.ndarray) -> np.ndarray:
    if data.is_panoptic:
        segments = data.truth.annotations[index].segments
        return pictures.tinted(
            image, pictures.enlarged(data.images.ids(index)), segments, data.by_id
        )
    return _tinted_labels(data, data.labels(index), image)


def _prediction(one: Predicted, index: int, image: np.ndarray) -> np.ndarray:
    if one.panoptic is not None:
        ids, segments = one.segments(index)
        return pictures.tinted(image, pictures.enlarged(ids), segments, one.data.by_id)
    return _tinted_labels(one.data, one.labels(index), image)


def _tinted_labels(data: EvaluationData, labels: np.ndarray, image: np.ndarray) -> np.ndarray:
    ids, segments = pictures.from_labels(labels, data.ignored)
    by_class = dict(enumerate(data.categories))
    return pictures.tinted(image, pictures.enlarged(ids), segments, by_class)
