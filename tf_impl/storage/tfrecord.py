"""TFRecords of panoptic and semantic data in the Model Garden's naming: writer and random access.

A folder of records holds `SPLIT-00000-of-0000N.tfrecord` files, one `.json` index beside each, and
`manifest.json`, written last. A shard appears under its name only when complete, its index after
it, so an interrupted run continues where it was. The schema is described in docs/data.md.
"""

import hashlib
import io
import json
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image

from maskformer.data import image_files
from maskformer.data.annotated import Annotated, read_photograph
from maskformer.data.data_digest import data_sha256
from maskformer.data.dataset_layout import Images
from maskformer.data.panoptic_dataset import PanopticImages, index_map
from maskformer.data.semantic_dataset import SemanticImages
from parity.errors import InputError
from parity.files import replacing
from parity.reading import bounds
from parity.reading.content import parse_json
from tf_impl.storage.bucket import BucketPath, ShardFile, path_of

FORMAT = "maskformer-tfrecord-1"
MANIFEST = "manifest.json"
SEGMENT_MAP = "image/panoptic/instance_mask"
LABEL_MAP = "image/segmentation/class/encoded"
_HEADER, _FOOTER = 12, 4
_VERBATIM = {"JPEG": "jpeg", "PNG": "png"}


@dataclass(frozen=True)
class Location:
    """Where a record is and what is known of it without reading it."""

    shard: int
    offset: int
    length: int
    source_id: str
    height: int
    width: int
    segments: int


def serialize(images: Images, index: int, label_bits: int) -> tuple[bytes, int]:
    """One image as a serialized `tf.train.Example` after every check, and its number of segments.

    A plain JPEG or PNG is stored byte for byte; a photograph that TensorFlow would decode
    differently from Pillow (EXIF orientation, CMYK, palettes) as a PNG of the decoded pixels.

    Args: label_bits: 8 or 16 per pixel of the label map. Raises InputError as the readers do.
    """
    record = images.records[index]
    encoded, image_format = _encode_photograph(images, index)
    features: dict[str, Any] = {
        "image/encoded": encoded,
        "image/format": image_format.encode(),
        "image/filename": record.image_path.name.encode(),
        "image/source_id": record.source_id.encode(),
        "image/key/sha256": hashlib.sha256(encoded).hexdigest().encode(),
        "image/height": [record.height],
        "image/width": [record.width],
    }
    segments = 0
    if isinstance(images, PanopticImages):
        annotation = images.annotation(index)
        ids = [segment.id for segment in annotation.segments]
        segments = len(ids)
        segment_map = index_map(images.ids(index), ids, f"image {record.source_id}")
        features |= {
            SEGMENT_MAP: _encode_map(segment_map, label_bits),
            "image/object/class/label": images.class_ids(index).tolist(),
            "image/object/is_crowd": [int(s.iscrowd) for s in annotation.segments],
            "image/object/area": [
                float(a) for a in np.bincount(segment_map.reshape(-1), minlength=segments + 1)[1:]
            ],
            "image/object/segment_id": ids,
            "image/object/category_id": [s.category_id for s in annotation.segments],
        }
    else:
        features |= {
            LABEL_MAP: _encode_map(images.labels(index), label_bits),
            "image/segmentation/class/format": b"png",
        }
    example = tf.train.Example(
        features=tf.train.Features(feature={k: _feature(v) for k, v in features.items()})
    )
    return example.SerializeToString(deterministic=True), segments


def _feature(value: bytes | list) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if value and isinstance(value[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=value))


def _encode_photograph(images: Images, index: int) -> tuple[bytes, str]:
    record = images.records[index]
    name = f"image {record.source_id}"
    pixels = read_photograph(record)
    encoded = record.image_path.read_bytes()
    kind = image_files.is_plain(encoded, name)
    if kind in _VERBATIM:
        return encoded, _VERBATIM[kind]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue(), "png"


def _encode_map(values: np.ndarray, bits: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8 if bits == 8 else np.uint16)).save(buffer, format="PNG")
    return buffer.getvalue()


def deserialize(serialized: bytes, name: str = "record") -> Annotated:
    """The annotated photograph of a record, decoded with Pillow: equal to the reader's `load`.

    Raises InputError naming the record for bytes that are no example, a missing feature, a map or
    photograph that cannot be decoded, sizes that differ, and class lists that do not fit the map.
    """
    features = parse(serialized, name)
    image = image_files.photograph(_only(features, "image/encoded", bytes, name), name)
    if image.shape[:2] != (size := _size(features, name)):
        raise InputError(
            f"{name}: image/encoded is {image.shape[0]}x{image.shape[1]}",
            f"the record says {size[0]}x{size[1]} (height x width)",
            "The record is damaged: write it again.",
        )
    return replace(labels_of(features, name), image=image)


def labels_of(features: dict[str, list], name: str) -> Annotated:
    """The annotation of a parsed record without its photograph. Raises InputError likewise."""
    size = _size(features, name)
    if LABEL_MAP in features:
        labels = _decode(_only(features, LABEL_MAP, bytes, name), size, f"{name}: {LABEL_MAP}")
        return Annotated(image=None, labels=labels)
    if SEGMENT_MAP not in features:
        raise InputError(
            f"{name} has neither {SEGMENT_MAP} nor {LABEL_MAP}",
            f"it has: {', '.join(sorted(features))}",
            "Write the records with `parity data tfrecord`.",
        )
    segments = _decode(_only(features, SEGMENT_MAP, bytes, name), size, f"{name}: {SEGMENT_MAP}")
    class_ids = _numbers(features, "image/object/class/label", name)
    is_crowd = _numbers(features, "image/object/is_crowd", name).astype(bool)
    if len(class_ids) != len(is_crowd) or int(segments.max()) > len(class_ids):
        raise InputError(
            f"{name}: the segment map reaches {segments.max()}",
            f"{len(class_ids)} class labels and {len(is_crowd)} crowd flags are stored",
            "The record is damaged: write it again.",
        )
    return Annotated(None, segments, class_ids, is_crowd)


def _size(features: dict[str, list], name: str) -> tuple[int, int]:
    return tuple(_only(features, f"image/{side}", int, name) for side in ("height", "width"))


def segment_ids(serialized: bytes) -> np.ndarray:
    """The data set's segment ids [H,W] int32 of a panoptic record: exactly the PNG's."""
    features = parse(serialized, "record")
    ids = np.append(np.int32(0), _numbers(features, "image/object/segment_id", "record"))
    return ids[labels_of(features, "record").segments]


def parse(serialized: bytes, name: str) -> dict[str, list]:
    """Every feature of a record as a list. Raises InputError for bytes that are no example."""
    try:
        example = tf.train.Example.FromString(serialized)
    except DecodeError as error:
        raise InputError(
            f"{name} is no tf.train.Example", str(error), "The file is damaged: write it again."
        ) from None
    return {
        key: list(getattr(feature, feature.WhichOneof("kind") or "int64_list").value)
        for key, feature in example.features.feature.items()
    }


def _only(features: dict[str, list], key: str, kind: type, name: str) -> Any:
    values = features.get(key, [])
    if len(values) != 1 or type(values[0]) is not kind:
        raise InputError(
            f"{name} has {len(values)} values of {key}",
            f"expected: one of type {kind.__name__}",
            "Write the records with `parity data tfrecord`.",
        )
    return values[0]


def _numbers(features: dict[str, list], key: str, name: str) -> np.ndarray:
    """The whole numbers of a feature, int32; none where it is missing."""
    values = features.get(key, [])
    bound = np.iinfo(np.int32)
    if not all(type(one) is int and bound.min <= one <= bound.max for one in values):
        raise InputError(
            f"{name}: {key} has values that are no numbers of 32 bits",
            f"such as {str(values[0])[:40]}",
            "The record is damaged: write it again.",
        )
    return np.array(values, np.int32)


def _decode(encoded: bytes, size: tuple[int, int], what: str) -> np.ndarray:
    values, mode = image_files.values(encoded, what, "map")
    if values.ndim != 2 or values.shape != size:
        raise InputError(
            f"{what} is {mode} {'x'.join(map(str, values.shape[:2]))}",
            f"the record says one channel, {size[0]}x{size[1]} (height x width)",
            "The record is damaged: write it again.",
        )
    return values


def write_records(
    images: Images,
    folder: str | os.PathLike[str],
    split: str,
    shards: int,
    *,
    workers: int = 2,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Writes the records of a split and their manifest; returns the manifest.

    Image i of n is in shard i * shards // n, in order. Shards that an earlier run of the same
    source finished are kept after checking their hash.

    Args: shards: number of files; workers: threads; advance: called after each image.
    Raises InputError as the readers do, for a bad number of shards, and where `folder` holds
    records of another source or another number of shards.
    """
    count = len(images)
    if not 1 <= shards <= count:
        raise InputError(f"--shards is {shards}", f"expected: 1 to {count}, the number of images")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    bits = _label_bits(images)
    source = {"split": split, "shards": shards, "digest": _source_digest(images), "bits": bits}
    _check_same_source(folder, source)
    for stale in folder.glob(f".{split}-*.partial"):
        stale.unlink()
    ranges = [(-(-s * count // shards), -(-(s + 1) * count // shards)) for s in range(shards)]

    def write(shard: int) -> dict[str, Any]:
        path = folder / f"{split}-{shard:05d}-of-{shards:05d}.tfrecord"
        done = _finished(path, source)
        if done is None:
            return _write_shard(images, path, range(*ranges[shard]), source, advance)
        for _ in done["records"]:
            advance()
        return done

    with ThreadPoolExecutor(max(1, workers)) as pool:
        jobs = [pool.submit(write, shard) for shard in range(shards)]
        try:
            indices = [job.result() for job in jobs]
        finally:
            for job in jobs:
                job.cancel()
    manifest = _manifest(images, source, indices)
    _write_json(folder / MANIFEST, manifest)
    return manifest


def _write_shard(
    images: Images,
    path: Path,
    indices: range,
    source: dict[str, Any],
    advance: Callable[[], None],
) -> dict[str, Any]:
    records, offset = [], 0
    with replacing(path) as temporary:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for index in indices:
                serialized, segments = serialize(images, index, source["bits"])
                writer.write(serialized)
                record = images.records[index]
                records.append(
                    [
                        offset,
                        len(serialized),
                        record.source_id,
                        record.height,
                        record.width,
                        segments,
                    ]
                )
                offset += _HEADER + len(serialized) + _FOOTER
                advance()
        digest = _sha256(temporary)
    index = {"file": path.name, "source": source, "bytes": offset, "sha256": digest}
    index["records"] = records
    _write_json(path.with_suffix(".json"), index)
    return index


def _finished(path: Path, source: dict[str, Any]) -> dict[str, Any] | None:
    """The index of a shard that is complete and undamaged, or None."""
    beside = path.with_suffix(".json")
    if not path.is_file() or not beside.is_file():
        return None
    index = _json(beside)
    if index["source"] != source or path.stat().st_size != index["bytes"]:
        return None
    return index if _sha256(path) == index["sha256"] else None


def _check_same_source(folder: Path, source: dict[str, Any]) -> None:
    for beside in sorted(folder.glob("*-of-*.json")):
        found = _json(beside)["source"]
        if found != source:
            changed = next(key for key in source if found.get(key) != source[key])
            raise InputError(
                f"{folder} holds records of another {'source' if changed == 'digest' else changed}",
                f"{beside.name} says {found.get(changed)}, this run {source[changed]}",
                "Choose another folder, or remove it first.",
            )


def _label_bits(images: Images) -> int:
    if isinstance(images, SemanticImages):
        return 8 if max(images.num_classes - 1, images.ignored) < 256 else 16
    most = max(len(annotation.segments) for annotation in images.dataset.annotations)
    return 8 if most < 256 else 16


def _source_digest(images: Images) -> str:
    """sha256 of what the annotations say, without pixels: enough to tell two sources apart."""
    described: list[Any] = [[r.source_id, r.height, r.width] for r in images.records]
    if isinstance(images, PanopticImages):
        described += [
            [[s.id, s.category_id, s.iscrowd, s.area] for s in annotation.segments]
            for annotation in images.dataset.annotations
        ]
    else:
        described += [images.num_classes, images.ignored, *(p.name for p in images.label_paths)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _manifest(
    images: Images, source: dict[str, Any], indices: list[dict[str, Any]]
) -> dict[str, Any]:
    if isinstance(images, PanopticImages):
        classes = [
            {"id": c.id, "name": c.name, "isthing": int(c.isthing)} for c in images.categories
        ]
        num_classes, ignored = len(classes), None
    else:
        classes = [{"id": i, "name": name} for i, name in enumerate(images.names)]
        num_classes, ignored = images.num_classes, images.ignored
    return {
        "format": FORMAT,
        "kind": images.kind,
        "split": source["split"],
        "source_sha256": source["digest"],
        "data_sha256": data_sha256(images),
        "label_bits": source["bits"],
        "num_classes": num_classes,
        "ignored": ignored,
        "categories": classes,
        "images": len(images),
        "most_segments": max(record[5] for index in indices for record in index["records"]),
        "shards": [
            {
                "file": index["file"],
                "images": len(index["records"]),
                "bytes": index["bytes"],
                "sha256": index["sha256"],
            }
            for index in indices
        ],
    }


def _json(path: Path | BucketPath) -> Any:
    if path.stat().st_size > bounds.RECORD_BYTES:
        raise InputError(f"{path} is too large", f"at most {bounds.RECORD_BYTES:,} bytes are read")
    with path.open("rb") as file:
        return parse_json(file.read(), str(path))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def _sha256(path: Path | BucketPath) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class RecordFolder:
    """Records by number, in the order of the source; files are opened once and read by position.

    The folder may be in a bucket (gs://...).
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Raises InputError for a missing, unfinished or damaged folder."""
        self.folder = path_of(folder)
        self.manifest = _read_manifest(self.folder)
        self.locations: list[Location] = []
        self._files: list[ShardFile] = []
        for shard, entry in enumerate(self.manifest["shards"]):
            path = self.folder / entry["file"]
            index = _read_index(path, entry)
            self._files.append(ShardFile(path))
            self.locations += [Location(shard, *record) for record in index["records"]]

    def __len__(self) -> int:
        return len(self.locations)

    def name(self, index: int) -> str:
        """How errors call a record."""
        location = self.locations[index]
        file = self.manifest["shards"][location.shard]["file"]
        return f"{file}, image {location.source_id}"

    def read(self, index: int) -> bytes:
        """The serialized example number `index`. Raises InputError where the file is damaged."""
        location = self.locations[index]
        length = _HEADER + location.length
        stored = self._files[location.shard].read(length, location.offset)
        if len(stored) != length or struct.unpack("<Q", stored[:8])[0] != location.length:
            raise InputError(
                f"{self.name(index)}: the record is damaged",
                f"at byte {location.offset} {location.length} bytes were expected",
                "Remove the shard and its .json, and write the records again.",
            )
        return stored[_HEADER:]

    def load(self, index: int) -> Annotated:
        """The annotated photograph number `index`. Raises InputError as `deserialize` does."""
        return deserialize(self.read(index), self.name(index))

    def verify(self, advance: Callable[[], None] = lambda: None) -> None:
        """Raises InputError unless every shard has the manifest's hash."""
        for entry in self.manifest["shards"]:
            if _sha256(self.folder / entry["file"]) != entry["sha256"]:
                raise InputError(
                    f"{entry['file']} was changed after it was written",
                    f"its sha256 is not the manifest's {entry['sha256'][:16]}...",
                    "Remove the shard and its .json, and write the records again.",
                )
            advance()


def _read_manifest(folder: Path | BucketPath) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        unfinished = any(folder.glob("*-of-*.json")) or any(folder.glob(".*.partial"))
        raise InputError(
            f"{folder} has no {MANIFEST}",
            "writing was interrupted" if unfinished else "expected: a folder of records",
            "Run `parity data tfrecord` with the same arguments: finished shards are kept."
            if unfinished
            else "Write it with `parity data tfrecord SRC OUT`.",
        )
    try:
        manifest = _json(path)
        known = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path} is not a manifest", reason, "Write it again.") from None
    if known != FORMAT:
        raise InputError(
            f"{path} has the format {known!r}", f"expected: {FORMAT}", "Write the records again."
        )
    shards = manifest.get("shards")
    kinds = {"file": str, "images": int, "bytes": int, "sha256": str}
    if not isinstance(shards, list) or not all(
        isinstance(one, dict) and all(type(one.get(key)) is kind for key, kind in kinds.items())
        for one in shards
    ):
        raise InputError(f"{path} does not list its files", f"expected of each: {', '.join(kinds)}")
    for one in shards:
        if one["file"] != os.path.basename(one["file"]) or one["file"] in ("", ".", ".."):
            raise InputError(
                f"{path} names a file outside its folder",
                f"`file` is {one['file']!r}",
                "expected: the name of a file beside it",
            )
    return manifest


def _lies_in(record: Any, size: int) -> bool:
    """Whether a record of an index says numbers as they are written, within a file of `size`."""
    offset, length, _, *numbers = record
    whole = all(type(one) is int and one >= 0 for one in (offset, length, *numbers))
    return whole and len(numbers) == 3 and offset + _HEADER + length + _FOOTER <= size


def _read_index(path: Path | BucketPath, entry: dict[str, Any]) -> dict[str, Any]:
    beside = path.with_suffix(".json")
    missing = next((p for p in (path, beside) if not p.is_file()), None)
    if missing is not None:
        raise InputError(
            f"{missing.name} is missing",
            f"the manifest lists {entry['file']} with {entry['images']} images",
            "Run `parity data tfrecord` again: finished shards are kept.",
        )
    if path.stat().st_size != entry["bytes"]:
        raise InputError(
            f"{path.name} has {path.stat().st_size} bytes",
            f"the manifest says {entry['bytes']}",
            "Remove the shard and its .json, and write the records again.",
        )
    try:
        index = _json(beside)
        consistent = len(index["records"]) == entry["images"] and all(
            _lies_in(record, entry["bytes"]) for record in index["records"]
        )
    except (ValueError, KeyError, TypeError):
        consistent = False
    if not consistent:
        raise InputError(
            f"{beside.name} does not describe {path.name}",
            f"the manifest says {entry['images']} images",
            "Remove the shard and its .json, and write the records again.",
        )
    return index
