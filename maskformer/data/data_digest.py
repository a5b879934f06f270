"""One hash that says which data a run used, without reading the pixels of a large data set."""

import hashlib
import json

from maskformer.data.dataset_layout import Images
from parity.errors import InputError


def data_sha256(images: Images) -> str:
    """sha256 of a split: of every image its id, size in pixels, file name and file size in bytes.

    Panoptic data adds its classes and every segment's id, category, area and crowd flag; semantic
    data the size in bytes of every label map. Folders do not count: a copy has the same hash.
    Raises InputError for a photograph or label map that is missing.
    """
    digest = hashlib.sha256()
    try:
        for index, record in enumerate(images.records):
            row = [record.source_id, record.height, record.width, record.image_path.name]
            row.append(record.image_path.stat().st_size)
            if images.kind == "panoptic":
                row += [
                    [s.id, s.category_id, s.area, bool(s.iscrowd)]
                    for s in images.annotation(index).segments
                ]
            else:
                row.append(images.label_paths[index].stat().st_size)
            digest.update(json.dumps(row).encode() + b"\n")
    except OSError as error:
        raise InputError(
            f"image {record.source_id}: a file is missing",
            f"{error.filename}: {error.strerror}",
            "Put the file there, or remove the image from the annotations.",
        ) from None
    if images.kind == "panoptic":
        classes = [[c.id, c.name, bool(c.isthing)] for c in images.categories]
    else:
        classes = [images.num_classes, images.ignored, list(images.names)]
    digest.update(json.dumps(classes).encode())
    return digest.hexdigest()
