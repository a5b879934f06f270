"""`parity predict`: what either side sees in a photograph, as pictures and as panoptic JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replication.commands import options

if TYPE_CHECKING:
    from maskformer.data.panoptic_format import Category
    from maskformer.model.zoo import Entry
    from replication.sides.side import Side


def register(app: typer.Typer) -> None:
    """Adds `parity predict` to `app`."""
    app.command(
        "predict",
        epilog="Example: parity predict photo.jpg --config coco_r50 --weights model.pkl --out seen",
    )(command)


def command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    config: options.Config = None,
    config_file: options.ConfigFile = None,
    classes: options.Classes = None,
    settings: options.Settings = None,
    weights: options.Weights = "seeded:0",
    side: options.Side = "tf",
    out: options.OutFolder = Path("predictions"),
    as_json: options.AsJson = False,
) -> None:
    """Predict photographs: pictures with named segments, and predictions in COCO panoptic format.

    Writes OUT/SIDE/pictures/*.png and panoptic.json with panoptic/*.png; of a semantic config
    labels/*.png instead. Exit status: 0 predicted, 2 wrong usage or input.
    """
    from maskformer.data.images import read_image
    from parity.errors import InputError
    from parity.files import output_folder
    from replication.console.progress import images_shown
    from replication.sides.side import open_side, sides_of
    from replication.sides.weights import load_weights

    entry = options.resolved(config, config_file, options.overrides(settings))
    entry = options.with_classes(entry, classes, None)
    sides = sides_of(side)
    stems = [path.stem for path in images]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise InputError(
            f"two images are called {twice[0]}",
            ", ".join(str(path) for path in images if path.stem == twice[0]),
            "Their predictions would have one name: predict them one after the other.",
        )
    photographs = {path.stem: (path.name, read_image(path)) for path in images}
    loaded = load_weights(weights, entry.model)
    sizes = [image.shape[:2] for _, image in photographs.values()]
    canvas = tuple(max(size[axis] for size in sizes) for axis in (0, 1))
    result: dict[str, Any] = {"config": entry.name, "weights": loaded.source, "sides": {}}
    with output_folder(out) as folder:
        for name in sides:
            opened = open_side(name, entry.model, entry.inputs, loaded, canvas)
            with images_shown(f"predict, {name}", len(images), not as_json) as advance:
                result["sides"][name] = _predict(entry, opened, photographs, folder / name, advance)
    result["out"] = str(out)
    lines = [
        f"{name}, {row['image']}: {', '.join(row['segments']) or 'no segment'}\n"
        f"  {out / name / row['picture']}"
        for name, rows in result["sides"].items()
        for row in rows
    ]
    options.end(result, as_json, lambda: "\n".join(lines), name="predictions")


def categories_of(entry: "Entry") -> tuple["Category", ...]:
    """Names and ids of a config's classes; numbers where its data set's names are not known."""
    from maskformer import coco
    from maskformer.data.panoptic_format import Category
    from maskformer.scenes import scenes

    if entry.classes:
        return tuple(Category(one.id, one.name, one.is_thing) for one in entry.classes)
    if entry.test_set.startswith("scenes") and entry.model.num_classes == len(scenes.CATEGORIES):
        return scenes.CATEGORIES
    names = coco.PANOPTIC_CATEGORIES
    if entry.test_set.startswith("coco_2017_val") and entry.model.num_classes == len(names):
        return tuple(Category(c.dataset_id, c.name, c.is_thing, c.colour) for c in names)
    things = entry.model.inference.thing_ids
    return tuple(Category(c, f"class {c}", c in things) for c in range(entry.model.num_classes))


def _predict(
    entry: "Entry",
    side: "Side",
    photographs: dict[str, tuple[str, Any]],
    folder: Path,
    advance: Any,
) -> list[dict[str, Any]]:
    """Writes one side's predictions; returns what was found in each photograph."""
    import numpy as np
    from PIL import Image

    from maskformer.data.panoptic_format import ImageInfo, write_dataset
    from maskformer.family import family_of
    from maskformer.inference.prediction import to_dataset_ids
    from replication.evaluation import pictures

    categories = categories_of(entry)
    results = family_of(entry.model).results(entry.model)
    rows: list[dict[str, Any]] = []
    (folder / "pictures").mkdir(parents=True)

    def draw(name: str, stem: str, image: Any, ids: Any, segments: Any, by_id: Any) -> None:
        shown = [pictures.enlarged(one) for one in (image, ids)]
        picture = pictures.tinted(*shown, segments, by_id)
        legend = pictures.with_legend(picture, shown[1], segments, by_id)
        legend.save(folder / "pictures" / f"{stem}.png")
        found = [by_id[segment.category_id].name for segment in segments]
        rows.append({"image": name, "picture": f"pictures/{stem}.png", "segments": found})
        advance()

    def items():
        for number, (stem, (name, image)) in enumerate(photographs.items(), 1):
            prediction = side.predict(image, results).panoptic
            segments = to_dataset_ids(prediction, [c.id for c in categories])
            draw(name, stem, image, prediction.ids, segments, {c.id: c for c in categories})
            yield ImageInfo(number, name, *image.shape[:2]), prediction.ids, segments

    if "panoptic" in results:
        write_dataset(folder / "panoptic.json", folder / "panoptic", categories, items())
        return rows
    (folder / "labels").mkdir()
    kind = np.uint8 if entry.model.num_classes < 256 else np.uint16
    for stem, (name, image) in photographs.items():
        labels = side.predict(image, results).labels
        Image.fromarray(labels.astype(kind)).save(folder / "labels" / f"{stem}.png")
        ids, segments = pictures.from_labels(labels, -1)
        draw(name, stem, image, ids, segments, dict(enumerate(categories)))
    return rows
