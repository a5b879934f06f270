"""Finds the splits of a data set below a folder, in COCO's panoptic or ADE20K's layout."""

import os
from collections.abc import Callable
from pathlib import Path

from maskformer.data.panoptic_dataset import PanopticImages, read_panoptic_images
from maskformer.data.panoptic_format import refuse
from maskformer.data.semantic_dataset import SemanticImages, read_semantic_images
from parity.errors import InputError
from parity.reading.content import read_json

Images = PanopticImages | SemanticImages

ADE20K_CLASSES = 150


def find_splits(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the splits below `folder`, sorted.

    COCO: `annotations/panoptic_{split}.json`, photographs in `{split}/`, PNGs in
    `panoptic_{split}/` or `annotations/panoptic_{split}/`. ADE20K: `images/{split}/` (of the full
    data set `images_detectron2/{split}/`) and `annotations_detectron2/{split}/`, with an optional
    `categories.json` (a list of names).
    Raises InputError where neither is found.
    """
    root = Path(folder)
    panoptic = [
        path.stem.removeprefix("panoptic_")
        for path in sorted((root / "annotations").glob("panoptic_*.json"))
    ]
    semantic = [
        path.name for path in sorted((root / "annotations_detectron2").glob("*")) if path.is_dir()
    ]
    if not panoptic and not semantic:
        inside = [name for name in ("coco", "ADEChallengeData2016") if (root / name).is_dir()]
        raise InputError(
            f"{root} holds no data set" if root.is_dir() else f"{root} is not a folder",
            "expected: annotations/panoptic_*.json (COCO) or annotations_detectron2/ (ADE20K)",
            f"Give {' or '.join(str(root / name) for name in inside)}."
            if inside
            else "See docs/data.md for both layouts.",
        )
    return panoptic or semantic


def open_split(
    folder: str | os.PathLike[str],
    split: str,
    ignored: int | None = None,
    report: Callable[[InputError], None] = refuse,
) -> Images:
    """The images of one split. Raises InputError as the readers do, and for an unknown split.

    `report` is told the faults that leave out one image, where they are to be collected.

    Args: ignored: label of unlabelled pixels in semantic data; without it 255, and 65535 where 255
    is a class, as in the original's `register_ade20k_full.py`.
    """
    root = Path(folder)
    known = find_splits(root)
    if split not in known:
        raise InputError(
            f"{root} has no split {split!r}", f"it has: {', '.join(known)}", "Choose one of them."
        )
    annotations = root / "annotations" / f"panoptic_{split}.json"
    if annotations.is_file():
        beside = root / f"panoptic_{split}"
        labels = beside if beside.is_dir() else root / "annotations" / f"panoptic_{split}"
        return read_panoptic_images(annotations, root / split, labels, report)
    names = _category_names(root / "categories.json")
    classes = len(names) or ADE20K_CLASSES
    if ignored is None:
        ignored = 255 if classes <= 255 else 65535
    full = root / "images_detectron2"
    return read_semantic_images(
        (full if full.is_dir() else root / "images") / split,
        root / "annotations_detectron2" / split,
        classes,
        ignored,
        names,
        report,
    )


def _category_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    content = read_json(path, what="list of categories")
    try:
        return tuple(str(item["name"]) for item in content)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a list of categories",
            f"{type(error).__name__}: {error}",
            'expected: [{"id": 0, "name": "..."}, ...]',
        ) from None
