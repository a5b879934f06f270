"""Verifies a receipt: everything in it is derived again from the two checkpoints."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskformer.model.config import (
    InferenceConfig,
    LossConfig,
    ModelConfig,
    PixelDecoderConfig,
    PredictorConfig,
    ResNetConfig,
    SwinConfig,
)
from parity.errors import InputError
from parity.reading import bounds
from parity.reading.content import read_json
from weight_conversion import hugging_face
from weight_conversion.checkpoints import Source, open_source
from weight_conversion.convert import Output, outputs_of
from weight_conversion.digests import code_version, digest, digests_of_files
from weight_conversion.plan import Pair, make_plan
from weight_conversion.receipt import Checkpoint, Entry, Receipt, Tensor
from weight_conversion.second_reading import read_again
from weight_conversion.unwrapping import Choice


def verify(path: Path, say: Callable[[str], None] | None = None) -> list[str]:
    """Derives the receipt at `path` again from both checkpoints; returns every difference.

    Where that holds, other programs' readers decode both checkpoints and every bit is compared.
    Each difference names the file, tensor or entry concerned; none means that it all holds.

    Args:
        path: a receipt.
        say: told, in one line each, what no other reader could see.

    Raises:
        InputError: `path` is no receipt.
    """
    receipt = _read(path)
    try:
        config = _config(receipt.config)
        problems = _Verification(path, receipt, config).run()
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{path} is incomplete", f"{type(error).__name__}: {error}") from None
    if problems:
        return problems
    second = read_again(receipt, path.parent)
    for note in second.notes:
        if say:
            say(note)
    return list(second.problems)


def _read(path: Path) -> Receipt:
    if not path.exists():
        raise InputError(
            f"{path} does not exist",
            "expected: a receipt",
            "parity convert writes one beside each result",
        )
    return Receipt.read(read_json(path, bounds.HEADER_BYTES, "receipt"), path)


def _config(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration of a receipt; InputError where its digest is another."""
    sections = {
        "pixel_decoder": PixelDecoderConfig,
        "predictor": PredictorConfig,
        "loss": LossConfig,
        "inference": InferenceConfig,
        "backbone": SwinConfig if values["backbone"]["kind"] == "swin" else ResNetConfig,
    }
    arguments = {}
    for item in dataclasses.fields(ModelConfig):
        value = values[item.name]
        if item.name in sections:
            parts = {key: _frozen(part) for key, part in value.items() if key != "kind"}
            value = sections[item.name](**parts)
        arguments[item.name] = _frozen(value)
    return ModelConfig(**arguments)


def _choice(options: Mapping[str, Any]) -> Choice:
    """Which weights were taken; receipts of before keys and prefixes say the average only."""
    return Choice(options["ema"], options.get("key"), options.get("prefix"))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class _Verification:
    """Compares one receipt with its checkpoints and collects the differences."""

    def __init__(self, path: Path, receipt: Receipt, config: ModelConfig) -> None:
        self.receipt, self.config = receipt, config
        self.folder = path.parent
        self.problems: list[str] = []

    def run(self) -> list[str]:
        receipt = self.receipt
        if self.config.digest != receipt.config["digest"]:
            self.problems.append("config: its digest is another than the receipt's")
        if code_version() != receipt.code:
            self.problems.append("code: this version is another than the receipt's")
        source = self._files("source", receipt.source)
        target = self._files("target", receipt.target)
        if source and target:
            self._tensors(source, target)
        return self.problems

    def _files(self, side: str, entry: Checkpoint) -> Path | None:
        path = self.folder / entry.path
        parent = path if path.is_dir() else path.parent
        for stated in entry.files:
            file = parent / Path(stated.name).name
            if not file.is_file():
                self.problems.append(f"{side}: {stated.name} is missing")
                return None
            try:
                found = digests_of_files([file], file if stated.md5_prefix else None)[0]
            except InputError as error:
                self.problems.append(f"{side}: {str(error).splitlines()[0]}")
                continue
            if found != stated:
                keys = [
                    one.name
                    for one in dataclasses.fields(stated)
                    if getattr(stated, one.name) != getattr(found, one.name)
                ]
                self.problems.append(f"{side}: {stated.name} differs in {', '.join(keys)}")
        return path

    def _tensors(self, source_path: Path, target_path: Path) -> None:
        options, kind = self.receipt.options, self.receipt.target.kind
        stated = {entry.name: entry for entry in self.receipt.tensors}
        try:
            with (
                open_source(source_path, _choice(options)) as source,
                open_source(target_path) as target,
            ):
                plan = make_plan(source, self.config, options["dtype"])
                if plan.left_out != self.receipt.source.left_out:
                    self.problems.append("source: the list of what is left out differs")
                if [pair.spec.name for pair in plan.pairs] != list(stated):
                    self.problems.append("tensors: the list of names differs from the receipt's")
                for pair in plan.pairs:
                    entry = stated.get(pair.spec.name)
                    if entry is not None:
                        self._tensor(pair, outputs_of(pair, kind), entry, target)
                written = [out.name for entry in stated.values() for out in entry.targets]
                self._names(written, target, kind)
        except InputError as error:
            self.problems.append(" ".join(str(error).split()))

    def _tensor(self, pair: Pair, outputs: list[Output], entry: Entry, target: Source) -> None:
        name = pair.spec.name
        arrays = pair.load_sources()
        sources = tuple(
            Tensor(name=n, shape=a.shape, dtype=a.dtype.name, sha256=digest(a))
            for n, a in zip(pair.sources, arrays, strict=True)
        )
        if sources != entry.sources or pair.rule != entry.rule:
            self.problems.append(f"{name}: the source is not what the receipt says")
        combined = pair.combine(arrays)
        targets = tuple(
            Tensor(name=n, shape=s, dtype=d, sha256=digest(out.make(combined)), rule=out.rule)
            for out in outputs
            for n, s, d in [out.declared]
        )
        if targets != entry.targets:
            self.problems.append(f"{name}: the conversion gives another result than the receipt's")
        for stated in targets:
            stored = target.tensors.get(stated.name)
            if stored is None:
                self.problems.append(f"{stated.name}: missing in the target")
            elif (stored.shape, stored.dtype) != (stated.shape, stated.dtype):
                self.problems.append(f"{stated.name}: has another shape or type in the target")
            elif digest(stored.load()) != stated.sha256:
                self.problems.append(f"{stated.name}: has other values in the target")

    def _names(self, written: list[str], target: Source, kind: str) -> None:
        extra = set(target.tensors) - set(written)
        if kind == "hf":
            known = hugging_face.extras(self.config, [e.name for e in self.receipt.tensors])
            for name in extra & set(known):
                extra.discard(name)
                if not np.array_equal(target.tensors[name].load(), known[name].load()):
                    self.problems.append(f"{name}: has other values in the target")
        self.problems += [f"{name}: unexpected in the target" for name in sorted(extra)]
