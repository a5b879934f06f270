"""`parity data`: make, pack and look at data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replication.commands import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from parity.errors import InputError

data = typer.Typer(help="Make, pack and look at data sets.", no_args_is_help=True)

IGNORED = Annotated[
    int | None,
    typer.Option("--ignored", help="Label of unlabelled pixels; 255, or 65535 where that is one."),
]


def register(app: typer.Typer) -> None:
    """Adds `parity data scenes|convert|tfrecord|inspect` to `app`."""
    app.add_typer(data, name="data")


@data.command("scenes")
def scenes(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    images: Annotated[int, typer.Option("--images", help="Images in total.")] = 64,
    seed: options.Seed = 0,
    longest: Annotated[int, typer.Option("--longest", help="Longest side in pixels, about.")] = 320,
    val_share: Annotated[float, typer.Option("--val-share", help="Share of the val split.")] = 0.2,
    workers: options.Workers = 1,
    as_json: options.AsJson = False,
) -> None:
    """Draw a procedural data set in COCO panoptic and ADE20K layout.

    Example: parity data scenes runs/scenes --images 64 --seed 0
    """
    from maskformer.scenes.scenes import CATEGORIES, write_scenes
    from replication.console.progress import images_shown

    with images_shown("draw", images) as advance:
        counts = write_scenes(
            out,
            images,
            seed,
            size=longest,
            val_share=val_share,
            workers=workers,
            advance=advance,
        )
    result = {"folder": str(out), "images": counts, "classes": len(CATEGORIES)}
    text = (
        f"{out}: {counts['train']} training and {counts['val']} validation images, "
        f"{len(CATEGORIES)} classes"
    )
    options.end(result, as_json, lambda: text, name="scenes")


@data.command("convert")
def convert(
    photographs: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of photographs.")],
    out: Annotated[Path, typer.Argument(help="Data set to write the split into.")],
    instances: Annotated[
        Path | None, typer.Option(help="COCO JSON of instances: polygons or run lengths.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Folder of label maps: palette, grey, 16 bits or colours.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Of label maps: voc, or a JSON list of id, name, color.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Name of the split to write.")] = "train",
    ignored: Annotated[
        int | None, typer.Option("--ignored", help="Label of unlabelled pixels in label maps.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Make a COCO panoptic data set of instance annotations, or of label maps.

    Photographs are copied, so that the result stands by itself.

    Example: parity data convert photos runs/mine --instances instances.json --split train
    """
    from maskformer.data import conversion
    from parity.errors import InputError

    if (instances is None) == (labels is None):
        raise InputError(
            "one kind of annotation is needed",
            "expected: either --instances FILE.json or --labels FOLDER",
            "docs/data.md says what each may hold",
        )
    if instances is not None and (classes is not None or ignored is not None):
        raise InputError(
            "--classes and --ignored belong to --labels", "a COCO JSON has its categories"
        )
    place = conversion.Place(out, split)
    if instances is not None:
        done = conversion.from_instances(instances, photographs, place)
    else:
        known = conversion.classes_of(classes)
        done = conversion.from_labels(labels, photographs, place, known, ignored)
    result = {
        "folder": str(out),
        "split": split,
        "images": done.images,
        "segments": done.segments,
        "notes": dict(done.notes),
    }
    lines = [f"{out}, {split}: {done.images} images, {done.segments} segments"]
    lines += [f"  {count} {note}" for note, count in done.notes.items()]
    options.end(result, as_json, lambda: "\n".join(lines), name="data-conversion")


@data.command("tfrecord")
def tfrecord(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Data set (docs/data.md).")],
    out: Annotated[Path, typer.Argument(help="Folder to write, one folder per split inside.")],
    shards: Annotated[int, typer.Option("--shards", help="Files per split.")] = 8,
    split: options.Split = None,
    workers: options.Workers = 2,
    ignored: IGNORED = None,
    as_json: options.AsJson = False,
) -> None:
    """Pack a data set into TFRecords; an interrupted run continues where it was.

    Example: parity data tfrecord runs/scenes/coco runs/records --shards 4
    """
    from maskformer.data.dataset_layout import find_splits, open_split
    from replication.console.progress import images_shown
    from tf_impl.storage.tfrecord import write_records

    results = {}
    for name in [split] if split else find_splits(source):
        images = open_split(source, name, ignored)
        with images_shown(f"pack {name}", len(images)) as advance:
            manifest = write_records(
                images, out / name, name, shards, workers=workers, advance=advance
            )
        results[name] = {
            "folder": str(out / name),
            "images": manifest["images"],
            "bytes": sum(shard["bytes"] for shard in manifest["shards"]),
            "shards": len(manifest["shards"]),
        }
    lines = (
        f"{r['folder']}: {r['images']} images in {r['shards']} shards, {r['bytes']:,} bytes"
        for r in results.values()
    )
    options.end({"splits": results}, as_json, lambda: "\n".join(lines), name="records")


@data.command("inspect")
def inspect(
    path: Annotated[Path, typer.Argument(help="A data set or a folder of records.")],
    split: options.Split = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="PNG to draw.")] = None,
    images: Annotated[int, typer.Option("--images", help="Images on the sheet.")] = 12,
    pixel_difference: Annotated[
        int, typer.Option("--pixel-difference", help="Examples to compare: tf.data with Pillow.")
    ] = 0,
    ignored: IGNORED = None,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Check every image, print statistics, and draw some with their segments.

    A data set with faults is an error that lists all of them, the first 50 of each kind.

    Example: parity data inspect runs/records/train2017 --sheet sheet.png --pixel-difference 16
    """
    from maskformer.data.faults import Faults
    from maskformer.scenes.contact_sheet import Statistics, contact_sheet
    from parity.errors import InputError
    from parity.files import replacing
    from replication.console.progress import images_shown

    if images < 1:
        raise InputError(f"--images is {images}", "expected: at least 1 image on the sheet")
    faults = Faults()
    opened, names, ignored = _open(path, split, ignored, faults.add)
    if not 0 <= pixel_difference <= len(opened):
        raise InputError(
            f"--pixel-difference is {pixel_difference}", f"expected: 0 to {len(opened)} examples"
        )
    if pixel_difference and not hasattr(opened, "manifest"):
        raise InputError(
            f"{path} holds no records",
            "--pixel-difference compares two ways of reading records",
            "Pack it first: parity data tfrecord SRC OUT.",
        )
    statistics = Statistics(len(names))
    shown = []
    with images_shown("check", len(opened)) as advance:
        for index in range(len(opened)):
            found = list(opened.faults(index)) if hasattr(opened, "faults") else []
            for fault in found:
                faults.add(fault)
            if not found:
                example = opened.load(index)
                statistics.add(example, ignored)
                if sheet and len(shown) < images:
                    shown.append(example)
            advance()
    faults.check(str(path))
    result: dict[str, Any] = {"path": str(path), **statistics.to_dict(names)}
    if pixel_difference:
        result["pixel_difference"] = _pixel_difference(opened, pixel_difference)
    if sheet:
        with replacing(sheet) as temporary:
            contact_sheet(shown, ignored).save(temporary, format="PNG")
        result["sheet"] = str(sheet)
    options.keep(result, out, "inspection.json", report=False)
    options.end(result, as_json, lambda: _describe(result), name="data-inspection")


def _open(
    path: Path, split: str | None, ignored: int | None, report: "Callable[[InputError], None]"
) -> tuple[Any, list[str], int]:
    from maskformer.data.dataset_layout import find_splits, open_split

    if any(path.glob("*-of-*.tfrecord")) or (path / "manifest.json").is_file():
        from tf_impl.storage.tfrecord import RecordFolder

        records = RecordFolder(path)
        records.verify()
        named = [category["name"] for category in records.manifest["categories"]]
        names = named or [str(i) for i in range(records.manifest["num_classes"])]
        return records, names, records.manifest["ignored"] or 255
    opened = open_split(path, split or find_splits(path)[0], ignored, report)
    if opened.kind == "panoptic":
        return opened, [category.name for category in opened.categories], 255
    return opened, list(opened.names) or [str(i) for i in range(opened.num_classes)], opened.ignored


def _pixel_difference(records: Any, count: int) -> dict[str, Any]:
    """The fast pipeline against Pillow, at the published COCO or ADE20K settings."""
    from maskformer.model import zoo
    from tf_impl.dataset import TrainingData, difference

    panoptic = records.manifest["kind"] == "panoptic"
    inputs = zoo.get("coco_r50" if panoptic else "ade20k_r50").inputs
    return difference(TrainingData(records, inputs, 0, 128), range(count))


def _describe(result: dict[str, Any]) -> str:
    lines = [
        f"{result['path']}: {result['images']} images "
        f"({result['images_without_segments']} without segments), "
        f"{result['height'][0]}-{result['height'][1]} x {result['width'][0]}-{result['width'][1]}",
        f"{result['segments']} segments, at most {result['most_segments']} in an image, "
        f"{result['crowds']} crowds, {100 * result['void_share']:.1f} % void",
    ]
    lines += [
        f"  {c['name']:24s} {c['segments']:7d} segments {100 * c['share']:6.2f} % of the pixels"
        for c in result["classes"]
        if c["segments"]
    ]
    if gap := result.get("pixel_difference"):
        lines.append(
            f"tf.data against Pillow on {gap['images']} examples: largest difference "
            f"{gap['largest']} level(s), {100 * gap['share']:.2f} % of the values; "
            f"{gap['targets']} target pixels differ"
        )
    if "sheet" in result:
        lines.append(f"sheet: {result['sheet']}")
    return "\n".join(lines)
