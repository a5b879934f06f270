"""What a checkpoint file is: kind, fitting configurations, tensors, statistics, problems."""

from pathlib import Path
from typing import Any

import numpy as np

from maskformer.model.zoo import md5_prefix
from weight_conversion import backbones
from weight_conversion.checkpoints import open_source
from weight_conversion.convert import Progress
from weight_conversion.plan import fitting
from weight_conversion.receipt import digests_of_files
from weight_conversion.stored import FLOATS, StoredTensor
from weight_conversion.unwrapping import Choice


def inspect(
    path: Path, *, choice: Choice | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Reads every tensor of the checkpoint at `path` once and describes it as JSON-able values.

    Returns:
        kind, naming, notes, left_out, files, fits (names of zoo configurations), is_backbone,
        tensors (name, shape, dtype, bytes, minimum, maximum, mean, std, not_finite), and
        problems, a list of sentences.

    Raises:
        InputError: as `open_source`; or the file's md5 is not the one its name states.
    """
    with open_source(path, choice) as source:
        total = sum(stored.nbytes for stored in source.tensors.values())
        done = 0
        tensors = []
        for name, stored in source.tensors.items():
            tensors.append(_described(name, stored))
            done += stored.nbytes
            if progress:
                progress(done, total)
        fits = fitting(source)
        return {
            "path": str(path),
            "kind": source.kind,
            "naming": source.naming,
            "notes": source.notes,
            "left_out": source.left_out,
            "files": digests_of_files(source.files, path),
            "is_published_name": md5_prefix(path.name) is not None,
            "is_backbone": backbones.is_backbone(source.tensors),
            "fits": fits,
            "bytes": total,
            "parameters": sum(int(np.prod(t["shape"], dtype=np.int64)) for t in tensors),
            "tensors": tensors,
            "problems": _problems(tensors, fits),
        }


def _described(name: str, stored: StoredTensor) -> dict[str, Any]:
    values = stored.load()
    entry: dict[str, Any] = {
        "name": name,
        "shape": list(stored.shape),
        "dtype": stored.dtype,
        "bytes": stored.nbytes,
    }
    if stored.dtype not in FLOATS or not values.size:
        return entry
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    entry["not_finite"] = int(wide.size - finite.sum())
    kept = wide if entry["not_finite"] == 0 else wide[finite]
    if kept.size:
        statistics = (kept.min(), kept.max(), kept.mean(), kept.std())
        entry |= dict(
            zip(("minimum", "maximum", "mean", "std"), map(float, statistics), strict=True)
        )
    return entry


def _problems(tensors: list[dict[str, Any]], fits: list[str]) -> list[str]:
    found = []
    broken = [t for t in tensors if t.get("not_finite")]
    found += [f"{t['name']} has {t['not_finite']} values that are NaN or infinite" for t in broken]
    dtypes = {t["dtype"] for t in tensors if t["dtype"] in FLOATS} - {"float32"}
    if dtypes:
        found.append(f"some tensors are {', '.join(sorted(dtypes))}; --dtype float32 converts them")
    if not fits:
        found.append("no configuration of the zoo fits; give its own with --config-file")
    return found
