"""What a checkpoint file is: kind, fitting configurations, tensors, statistics, problems."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
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

THREADS = 2
PART = 1 << 16
"""Elements of a tensor that are described at once."""


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
    with open_source(path, choice) as source, ThreadPoolExecutor(THREADS) as pool:
        hashed = pool.submit(digests_of_files, source.files, path)
        total = sum(stored.nbytes for stored in source.tensors.values())
        tensors = list(_all_described(source.tensors, pool, total, progress))
        fits = fitting(source)
        return Inspection(
            path=str(path),
            kind=source.kind,
            naming=source.naming,
            notes=tuple(source.notes),
            left_out=source.left_out,
            files=hashed.result(),
            is_published_name=md5_prefix(path.name) is not None,
            is_backbone=backbones.is_backbone(source.tensors),
            fits=tuple(fits),
            bytes=total,
            parameters=sum(math.prod(one.shape) for one in tensors),
            tensors=tuple(tensors),
            problems=tuple(_problems(tensors, fits)),
        )


def _all_described(
    tensors: Mapping[str, StoredTensor],
    pool: ThreadPoolExecutor,
    total: int,
    progress: Progress | None,
) -> Iterator[Described]:
    """The tensors in their order; one is read while others are described."""
    done, waiting = 0, deque[Future[Described]]()
    for name, stored in tensors.items():
        waiting.append(pool.submit(_described, name, stored, stored.load()))
        if len(waiting) > THREADS:
            yield waiting.popleft().result()
        done += stored.nbytes
        if progress:
            progress(done, total)
    for one in waiting:
        yield one.result()


def _described(name: str, stored: StoredTensor, values: np.ndarray) -> Described:
    told = Described(name=name, shape=stored.shape, dtype=stored.dtype, bytes=stored.nbytes)
    if stored.dtype not in FLOATS or not values.size:
        return told
    flat = values.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        found = _measured(flat)
        if not math.isfinite(found["mean"]):
            flat = flat[np.isfinite(flat.astype(np.float64))]
            found = _measured(flat) if flat.size else {}
    return replace(told, not_finite=values.size - flat.size, **found)


def _measured(flat: np.ndarray) -> dict[str, float]:
    """Least, largest, mean and deviation of at least one number; no mean where one is not finite.

    In float64 and in one pass, by pieces that a processor's cache holds. Squares alone would
    cancel: those of a piece are of its differences from its own mean, and pieces are put together
    by theirs (Chan, Golub, LeVeque 1979). Without BLAS, whose threads would wait for cores that
    others have.
    """
    low, high, total, spread = math.inf, -math.inf, 0.0, 0.0
    for done in range(0, flat.size, PART):
        part = flat[done : done + PART].astype(np.float64)
        low, high = min(low, float(part.min())), max(high, float(part.max()))
        own = float(part.sum())
        mean = own / part.size
        part -= mean
        spread += float(np.multiply(part, part, out=part).sum())
        if done:
            apart = mean - total / done
            spread += apart * apart * done * part.size / (done + part.size)
        total += own
    deviation = math.sqrt(spread / flat.size)
    return {"minimum": low, "maximum": high, "mean": total / flat.size, "std": deviation}


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
