"""What a checkpoint file is: kind, fitting configurations, tensors, statistics, problems."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from maskformer.model.zoo import md5_prefix
from weight_conversion import backbones
from weight_conversion.checkpoints import open_source
from weight_conversion.convert import Progress
from weight_conversion.digests import digests_of_files
from weight_conversion.plan import fitting
from weight_conversion.receipt import File
from weight_conversion.stored import FLOATS, StoredTensor
from weight_conversion.unwrapping import Choice


@dataclass(frozen=True, kw_only=True)
class Described:
    """A tensor of a checkpoint; numbers are of its finite values, and only of floating point."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    not_finite: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a checkpoint is; `fits` names configurations of the zoo, `problems` are sentences."""

    path: str
    kind: str
    naming: str
    notes: tuple[str, ...]
    left_out: Mapping[str, str]
    files: tuple[File, ...]
    is_published_name: bool
    is_backbone: bool
    fits: tuple[str, ...]
    bytes: int
    parameters: int
    tensors: tuple[Described, ...]
    problems: tuple[str, ...]


def inspect(
    path: Path, *, choice: Choice | None = None, progress: Progress | None = None
) -> Inspection:
    """Reads every tensor of the checkpoint at `path` once and describes it.

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
        return Inspection(
            path=str(path),
            kind=source.kind,
            naming=source.naming,
            notes=tuple(source.notes),
            left_out=source.left_out,
            files=digests_of_files(source.files, path),
            is_published_name=md5_prefix(path.name) is not None,
            is_backbone=backbones.is_backbone(source.tensors),
            fits=tuple(fits),
            bytes=total,
            parameters=sum(math.prod(one.shape) for one in tensors),
            tensors=tuple(tensors),
            problems=tuple(_problems(tensors, fits)),
        )


def _described(name: str, stored: StoredTensor) -> Described:
    values = stored.load()
    told = Described(name=name, shape=stored.shape, dtype=stored.dtype, bytes=stored.nbytes)
    if stored.dtype not in FLOATS or not values.size:
        return told
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    told = replace(told, not_finite=int(wide.size - finite.sum()))
    kept = wide[finite] if told.not_finite else wide
    if not kept.size:
        return told
    return replace(
        told,
        minimum=float(kept.min()),
        maximum=float(kept.max()),
        mean=float(kept.mean()),
        std=float(kept.std()),
    )


def _problems(tensors: list[Described], fits: list[str]) -> list[str]:
    found = []
    broken = [one for one in tensors if one.not_finite]
    found += [f"{one.name} has {one.not_finite} values that are NaN or infinite" for one in broken]
    dtypes = {one.dtype for one in tensors if one.dtype in FLOATS} - {"float32"}
    if dtypes:
        found.append(f"some tensors are {', '.join(sorted(dtypes))}; --dtype float32 converts them")
    if not fits:
        found.append("no configuration of the zoo fits; give its own with --config-file")
    return found
