"""Converts a checkpoint to another format: streamed, strict, atomic, with a receipt."""

import contextlib
import dataclasses
import gc
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from maskformer.family import family_of
from maskformer.model.config import ModelConfig
from parity import files as atomic
from parity.errors import InputError
from weight_conversion import hugging_face, safetensors_file, tf_checkpoint, torch_files
from weight_conversion.checkpoints import Source, open_source
from weight_conversion.digests import HashingFile, code_version, digest, digests_of_files
from weight_conversion.plan import DTYPES, Pair, Plan, make_plan
from weight_conversion.receipt import (
    FOLDERS,
    FORMAT,
    RECEIPT_NAME,
    Checkpoint,
    Entry,
    File,
    Receipt,
    Tensor,
    receipt_path,
)
from weight_conversion.torch_files import Declared
from weight_conversion.unwrapping import Choice

TARGETS = ("tf", "torch", "hf", "safetensors")
_PICKLE_SUFFIXES, _ZIP_SUFFIXES = (".pkl",), (".pth", ".pt")
_IN_FLIGHT_BYTES = 32 << 20

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and the bytes in all."""


_Hashed = tuple[str, tuple[int, ...], str, str, Future]
"""A tensor's name, shape, dtype and rule of layout, and its sha256 to come."""


@dataclass(frozen=True)
class Output:
    """One tensor as it is written: its declared form, and how it is made from the paired tensor."""

    declared: Declared
    make: Callable[[np.ndarray], np.ndarray]
    rule: str


def outputs_of(pair: Pair, to: str) -> list[Output]:
    """The tensors that `pair` becomes in format `to`."""
    spec = pair.spec
    if to == "tf":
        layout = spec.layout
        return [Output((spec.name, spec.tf_shape, pair.dtype), layout.to_tf, layout.name)]
    if to != "hf":
        return [Output((spec.name, spec.shape, pair.dtype), lambda array: array, "same")]
    names = hugging_face.names(spec.name)
    rows = spec.shape[0] // len(names)
    shape = (rows, *spec.shape[1:])

    def part(index: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda array: array[index * rows : (index + 1) * rows]

    rule = "same" if len(names) == 1 else "one of three parts"
    return [
        Output((name, shape, pair.dtype), part(index), rule) for index, name in enumerate(names)
    ]


def convert(
    source_path: Path,
    target: Path,
    to: str,
    config: ModelConfig,
    *,
    dtype: str | None = None,
    choice: Choice | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Receipt:
    """Writes the model in `source_path` to `target`, and its receipt; returns the receipt.

    Args:
        source_path: a checkpoint of any kind that `open_source` knows.
        target: a new file, or a new folder for "tf" and "hf". A file, or a folder that holds
            an earlier receipt, is replaced.
        to: one of `TARGETS`. For "torch" the suffix decides: .pkl, or .pth and .pt.
        config: the configuration whose tensors the result holds.
        dtype: convert floating-point tensors to this one of `DTYPES`.
        choice: which of the file's weights; without it the model's own.
        progress: told how far the work is.
        say: told, in one line each, which leftovers of killed conversions to `target` were removed.

    Raises:
        InputError: nothing was written then. The result appears whole or not at all.
    """
    _check_request(source_path, target, to, config, dtype)
    beside = receipt_path(target, to)
    for path in (target,) if to in FOLDERS else (target, beside):
        for line in atomic.remove_leftovers(path):
            if say:
                say(line)
    with _without_collection(), open_source(source_path, choice) as source:
        plan = make_plan(source, config, dtype)
        head = family_of(config).state.head
        if to == "hf" and not any(pair.spec.name.startswith(head) for pair in plan.pairs):
            raise InputError(
                f"{source_path} is a backbone alone",
                "transformers' MaskFormer holds whole models",
                "write --to torch, tf or safetensors instead",
            )
        with atomic.temporary(target, to in FOLDERS) as temporary, ThreadPoolExecutor(2) as pool:
            hashes = pool.submit(digests_of_files, source.files, source_path)
            records: list[_Record] = []
            stream = _stream(plan, to, pool, records, progress)
            target_files = _write(temporary, target, to, plan, stream, pool)
            receipt = Receipt(
                format=FORMAT,
                code=code_version(),
                source=_taken(source, hashes.result(), plan, beside.parent),
                target=Checkpoint(
                    path=_relative(target, beside.parent), kind=to, files=target_files
                ),
                options={"dtype": dtype, **dataclasses.asdict(choice or Choice())},
                config={**plan.config.to_dict(), "digest": plan.config.digest},
                tensors=tuple(record.resolved() for record in records),
            )
            if to in FOLDERS:
                (temporary / RECEIPT_NAME).write_text(receipt.text(), encoding="utf-8")
            atomic.replace(temporary, target)
    if to not in FOLDERS:
        with atomic.temporary(beside, False) as temporary:
            temporary.write_text(receipt.text(), encoding="utf-8")
            atomic.replace(temporary, beside)
    return receipt


@dataclass
class _Record:
    """What the receipt will say of one parameter; its hashes are still being computed."""

    name: str
    rule: str
    sources: "list[_Hashed]" = field(default_factory=list)
    targets: "list[_Hashed]" = field(default_factory=list)

    def resolved(self) -> Entry:
        """The entry; waits for the hashes."""
        sources, targets = (
            tuple(
                Tensor(name=name, shape=shape, dtype=dtype, sha256=future.result(), rule=rule)
                for name, shape, dtype, rule, future in side
            )
            for side in (self.sources, self.targets)
        )
        return Entry(self.name, self.rule, sources, targets)


def _taken(source: Source, found: tuple[File, ...], plan: Plan, folder: Path) -> Checkpoint:
    return Checkpoint(
        path=_relative(source.path, folder),
        kind=source.kind,
        files=found,
        notes=(*source.notes, *plan.notes),
        left_out=plan.left_out,
    )


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _check_request(
    source: Path, target: Path, to: str, config: ModelConfig, dtype: str | None
) -> None:
    if to not in TARGETS:
        raise InputError(f"--to is {to!r}", f"expected: one of {', '.join(TARGETS)}")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"--dtype is {dtype!r}", f"expected: one of {', '.join(DTYPES)}")
    if to == "torch" and target.suffix not in (*_PICKLE_SUFFIXES, *_ZIP_SUFFIXES):
        raise InputError(
            f"{target} says no torch format", "expected a name that ends with .pkl, .pth or .pt"
        )
    if to == "tf" and dtype == "float16":
        raise InputError(
            "--dtype float16 does not fit --to tf", "TF models hold float32 or float64"
        )
    if to == "hf":
        hugging_face.check_supported(config)
    if not target.parent.is_dir():
        raise InputError(
            f"the folder {target.parent} does not exist",
            f"{target.name} would be written there",
            "create it first",
        )
    if source.exists() and target.exists() and source.samefile(target):
        raise InputError(
            f"{target} is also the source", f"it is {source}", "choose another destination"
        )
    if to in FOLDERS:
        ours = (target / RECEIPT_NAME).is_file()
        if target.exists() and not ours and (not target.is_dir() or any(target.iterdir())):
            raise InputError(
                f"{target} exists and is no earlier result",
                f"it has no {RECEIPT_NAME}",
                "choose a new folder for the result",
            )
    elif target.is_dir():
        raise InputError(
            f"{target} is a folder", f"--to {to} writes a file", "choose a file name for the result"
        )


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Puts Python's search for cyclic garbage off; it would walk all that the frameworks hold."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _stream(
    plan: Plan,
    to: str,
    pool: ThreadPoolExecutor,
    records: "list[_Record]",
    progress: Progress | None,
) -> Iterator[np.ndarray]:
    """The tensors to write, one at a time; `records` collects what the receipt says of each.

    Hashes are computed beside the writing; a tensor is freed when both are done.
    """
    in_flight: deque[tuple[Future, int]] = deque()
    waiting = written = 0
    total = sum(_nbytes(out.declared) for pair in plan.pairs for out in outputs_of(pair, to))
    for pair in plan.pairs:
        arrays = pair.load_sources()
        combined = pair.combine(arrays)
        _check_finite(pair, combined)
        record = _Record(pair.spec.name, pair.rule)
        same = len(arrays) == 1 and arrays[0].dtype == combined.dtype and pair.rule == "same"
        futures = [pool.submit(digest, array) for array in arrays]
        for name, array, future in zip(pair.sources, arrays, futures, strict=True):
            record.sources.append((name, array.shape, array.dtype.name, "", future))
        for output in outputs_of(pair, to):
            array = output.make(combined)
            reused = same and output.rule == "same"
            future = futures[0] if reused else pool.submit(digest, array)
            record.targets.append((*output.declared, output.rule, future))
            futures.append(future)
            yield array
            written += array.nbytes
            if progress:
                progress(written, total)
        records.append(record)
        in_flight.append((futures[-1], combined.nbytes))
        waiting += combined.nbytes
        while in_flight and waiting > _IN_FLIGHT_BYTES:
            future, size = in_flight.popleft()
            future.result()
            waiting -= size


def _nbytes(declared: Declared) -> int:
    _, shape, dtype = declared
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def _check_finite(pair: Pair, array: np.ndarray) -> None:
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        # Squares never cancel, so a finite sum means finite values; overflow gets the full look.
        # Not BLAS, whose threads would wait for the cores on which tensors are hashed.
        flat = array.reshape(-1)
        if np.isfinite(np.einsum("i,i->", flat, flat)):
            return
    finite = np.isfinite(array)
    if not finite.all():
        where = [int(i) for i in np.argwhere(~finite)[0]]
        raise InputError(
            f"{pair.spec.name} holds {array.size - int(finite.sum())} values that are NaN or "
            f"infinite, of {array.size}",
            f"the first at {where} [{', '.join(pair.sources)}, {array.dtype}]",
            "`parity inspect` lists every such tensor; nothing was written",
        )


def _write(
    path: Path,
    target: Path,
    to: str,
    plan: Plan,
    stream: Iterator[np.ndarray],
    pool: ThreadPoolExecutor,
) -> tuple[File, ...]:
    """Writes everything but the receipt; returns what the receipt says of the files."""
    declared = [out.declared for pair in plan.pairs for out in outputs_of(pair, to)]
    if to == "tf":
        return _write_tf(path, declared, stream, pool)
    if to == "hf":
        return _write_library(path, plan, declared, stream)
    if target.suffix in _ZIP_SUFFIXES and to == "torch":
        with path.open("wb") as file:
            torch_files.write_zip(file, declared, stream)
        return (dataclasses.replace(digests_of_files([path])[0], name=target.name),)
    write = safetensors_file.write if to == "safetensors" else torch_files.write_pickle
    with HashingFile(path) as file:
        write(file, declared, stream)
    return (File(name=target.name, size=path.stat().st_size, sha256=file.hexdigest),)


def _write_tf(
    folder: Path,
    declared: Sequence[Declared],
    stream: Iterator[np.ndarray],
    pool: ThreadPoolExecutor,
) -> tuple[File, ...]:
    """Writes a TF checkpoint; each part is hashed while the next one is made."""
    parts = tf_checkpoint.write_parts(folder, declared, stream)
    hashes = [pool.submit(digests_of_files, [part]) for part in parts]
    found = [future.result()[0] for future in hashes]
    data = tf_checkpoint.merge_parts(folder)
    others = sorted(set(folder.iterdir()) - set(data))
    named = [
        dataclasses.replace(entry, name=file.name) for entry, file in zip(found, data, strict=True)
    ]
    return tuple(sorted([*named, *digests_of_files(others)], key=lambda entry: entry.name))


def _write_library(
    folder: Path, plan: Plan, declared: Sequence[Declared], stream: Iterator[np.ndarray]
) -> tuple[File, ...]:
    """Writes a Hugging Face folder; the weights are hashed beside the writing."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    config.write_text(
        json.dumps(hugging_face.library_config(plan.config), indent=1) + "\n", encoding="utf-8"
    )
    extras = hugging_face.extras(plan.config, [pair.spec.name for pair in plan.pairs])
    more = [(name, extra.shape, extra.dtype) for name, extra in extras.items()]
    everything = itertools.chain(stream, (extra.load() for extra in extras.values()))
    with HashingFile(weights) as file:
        safetensors_file.write(file, [*declared, *more], everything)
    size = weights.stat().st_size
    entry = File(name=weights.name, size=size, sha256=file.hexdigest)
    return (*digests_of_files([config]), entry)
