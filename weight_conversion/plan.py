"""Pairs a checkpoint's tensors with a configuration's: every tensor on both sides counts."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from maskformer.family import FAMILIES, family_of
from maskformer.model.config import ModelConfig, SwinConfig
from parity.errors import InputError
from weight_conversion import backbones, hugging_face
from weight_conversion.checkpoints import Source
from weight_conversion.spec import TensorSpec, expected
from weight_conversion.stored import FLOATS, StoredTensor

DTYPES = ("float32", "float64", "float16")
"""What floating-point tensors can be converted to on request."""

_CONSTANT = "constant of the model"
_LISTED = 6  # problems of one kind that an error spells out


@dataclass(frozen=True)
class Pair:
    """One tensor of the configuration and where it comes from.

    `load_sources` gives the tensors as stored, `combine` makes of them the one with the state-dict
    key, in torch's layout. `sources` is empty for a constant of the model that the file lacks.
    """

    spec: TensorSpec
    dtype: str
    sources: tuple[str, ...]
    load_sources: Callable[[], list[np.ndarray]]
    combine: Callable[[list[np.ndarray]], np.ndarray]
    rule: str


@dataclass
class Plan:
    """All pairs in the order of the state dict, and what stays out of the result, with reasons."""

    config: ModelConfig
    pairs: list[Pair]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def class_tensors(config: ModelConfig) -> frozenset[str]:
    """The tensors of `config` whose shape depends on the number of classes."""
    more = expected(config.replace(num_classes=config.num_classes + 1))
    return frozenset(n for n, spec in expected(config).items() if more[n].shape != spec.shape)


def make_plan(
    source: Source,
    config: ModelConfig,
    dtype: str | None = None,
    renewed: frozenset[str] = frozenset(),
) -> Plan:
    """Pairs every tensor of `source` with one of `config`; loads none but the small constants.

    A backbone alone is paired with `config`'s backbone only. Those of `renewed` that have another
    shape in the file are left out, by name, and have no pair.

    Raises:
        InputError: listing every tensor that is missing, unexpected, of another shape, or of
            another dtype than float32 where `dtype` does not ask for a change.
    """
    specs = expected(config)
    found = _Pairing(source, config, dtype)
    found.renewed = renewed
    if source.naming == "hugging_face":
        hugging_face.check_supported(config)
        found.pair_library(specs)
    elif backbones.is_backbone(source.tensors):
        found.pair_backbone({n: s for n, s in specs.items() if n.startswith("backbone.")})
    else:
        found.pair_original(specs)
    found.check()
    return Plan(config, found.pairs, {**source.left_out, **found.left_out}, found.notes)


class _Pairing:
    """Pairs found so far, and every problem, so that one error can name all of them."""

    def __init__(self, source: Source, config: ModelConfig, dtype: str | None) -> None:
        self.source, self.config, self.dtype = source, config, dtype
        self.unused = dict(source.tensors)
        self.renewed: frozenset[str] = frozenset()
        self.pairs: list[Pair] = []
        self.left_out: dict[str, str] = {}
        self.notes: list[str] = []
        self.problems: dict[str, list[str]] = {
            "missing": [],
            "unexpected": [],
            "of another shape": [],
            "of another type (--dtype float32 converts)": [],
            "with another value than the configuration's": [],
        }

    def pair_original(self, specs: dict[str, TensorSpec]) -> None:
        """Names are state-dict keys; layouts are torch's, or TF's in a TF checkpoint."""
        self._check_pixel_constants()
        for name, spec in specs.items():
            self._pair(spec, name)

    def pair_library(self, specs: dict[str, TensorSpec]) -> None:
        """Names are those of transformers; packed projections lie there in three parts."""
        for name in hugging_face.extras(self.config, list(specs)):
            if name in self.unused:
                del self.unused[name]
                self.left_out[name] = "unused by the library's forward pass"
        for name, spec in specs.items():
            self._pair(spec, *hugging_face.names(name))

    def pair_backbone(self, specs: dict[str, TensorSpec]) -> None:
        """Names are those of an ImageNet classifier or of a backbone by itself."""
        keys, dropped = backbones.rename(self.unused)
        self.left_out |= dropped
        self.unused = {key: self.unused[name] for key, name in keys.items()}
        self.notes.append("a backbone alone; the rest of the model keeps its initialisation")
        for name, spec in specs.items():
            stored = self.unused.get(name)
            is_output_norm = isinstance(self.config.backbone, SwinConfig) and name.startswith(
                "backbone.norm"
            )
            if stored is None and is_output_norm:
                self.notes.append(f"{name} keeps its initialisation; a classifier has none")
            elif stored and backbones.is_another_window(name, stored.shape, spec.shape):
                self._pair_table(spec, stored)
            elif stored and spec.constant and stored.shape != spec.shape:
                del self.unused[name]
                self.left_out[name] = "an index table of another window size"
                self._fill(spec)
            else:
                self._pair(spec, name)

    def check(self) -> None:
        """Raises InputError with every problem, grouped."""
        self.problems["unexpected"] += [
            f"{name} {list(stored.shape)}" for name, stored in self.unused.items()
        ]
        details = []
        for kind, found in self.problems.items():
            if found:
                rest = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
                details.append(f"{len(found)} {kind}: {', '.join(found[:_LISTED])}{rest}")
        if details:
            raise InputError(
                f"{self.source.path} does not fit {self.config.name}",
                *details,
                "`parity inspect` says which configuration fits",
            )

    def _pair(self, spec: TensorSpec, *names: str) -> None:
        parts = [self.unused.pop(name) for name in names if name in self.unused]
        if len(parts) < len(names):
            if spec.constant and not parts:
                self._fill(spec)
            else:
                absent = [name for name in names if name not in self.source.tensors]
                self.problems["missing"] += [f"{name} {list(spec.shape)}" for name in absent]
            return
        shape = spec.tf_shape if self.source.naming == "tf" else spec.shape
        for name, part in zip(names, parts, strict=True):
            wanted = (shape[0] // len(names), *shape[1:]) if shape else shape
            if part.shape != wanted and spec.name in self.renewed:
                self.left_out[name] = f"{list(part.shape)}, of another number of classes"
                return
            if part.shape != wanted:
                self.problems["of another shape"].append(
                    f"{name} is {list(part.shape)}, expected {list(wanted)}"
                )
                return
        dtypes = {part.dtype for part in parts}
        dtype = self._dtype(spec, names[0], dtypes.pop() if len(dtypes) == 1 else "mixed")
        layout = spec.layout if self.source.naming == "tf" else None

        def combine(arrays: list[np.ndarray]) -> np.ndarray:
            array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            array = layout.to_torch(array) if layout else array
            return np.ascontiguousarray(array.astype(dtype, copy=False)).reshape(spec.shape)

        rule = "three parts joined" if len(parts) > 1 else "same"
        if layout and layout.axes:
            rule = f"{layout.name}, inverted"
        if spec.constant:
            self._check_constant(spec, names[0], parts[0])
            if parts[0].dtype != dtype:
                rule, combine = _CONSTANT, _constant(spec, dtype)
        self._add(spec, dtype, names, [part.load for part in parts], combine, rule)

    def _pair_table(self, spec: TensorSpec, stored: StoredTensor) -> None:
        del self.unused[spec.name]
        dtype = self._dtype(spec, spec.name, stored.dtype)

        def combine(arrays: list[np.ndarray]) -> np.ndarray:
            return backbones.resize_bias_table(arrays[0], spec.shape[0]).astype(dtype, copy=False)

        rule = f"bicubic from {stored.shape[0]} to {spec.shape[0]} rows"
        self._add(spec, dtype, (spec.name,), [stored.load], combine, rule)

    def _fill(self, spec: TensorSpec) -> None:
        dtype = self.dtype if self.dtype and spec.dtype in FLOATS else spec.dtype
        self._add(spec, dtype, (), [], _constant(spec, dtype), _CONSTANT)

    def _add(
        self,
        spec: TensorSpec,
        dtype: str,
        names: tuple[str, ...],
        loads: list[Callable[[], np.ndarray]],
        combine: Callable[[list[np.ndarray]], np.ndarray],
        rule: str,
    ) -> None:
        self.pairs.append(
            Pair(spec, dtype, names, lambda: [load() for load in loads], combine, rule)
        )

    def _dtype(self, spec: TensorSpec, name: str, stored: str) -> str:
        """The dtype of the result; a float changes only on request, an integer never."""
        if spec.dtype in FLOATS and stored in FLOATS and self.dtype:
            return self.dtype
        if stored != spec.dtype:
            self.problems["of another type (--dtype float32 converts)"].append(
                f"{name} is {stored}, expected {spec.dtype}"
            )
        return spec.dtype

    def _check_constant(self, spec: TensorSpec, name: str, stored: StoredTensor) -> None:
        """Compares in the stored type: a half-precision file holds the rounded constant."""
        value = stored.load()
        if not np.array_equal(value, spec.constant().astype(value.dtype)):
            self.problems["with another value than the configuration's"].append(name)

    def _check_pixel_constants(self) -> None:
        """Older files also hold the pixel mean and standard deviation."""
        for name in ("pixel_mean", "pixel_std"):
            stored = self.unused.pop(name, None)
            if stored is None:
                continue
            value = stored.load().reshape(-1).astype(np.float32)
            if np.array_equal(value, np.array(getattr(self.config, name), np.float32)):
                self.left_out[name] = "equal to the configuration's"
            else:
                self.problems["with another value than the configuration's"].append(
                    f"{name} {value.tolist()}"
                )


def _constant(spec: TensorSpec, dtype: str) -> Callable[[list[np.ndarray]], np.ndarray]:
    return lambda _: spec.constant().astype(dtype, copy=False)


def fitting(source: Source) -> list[str]:
    """The zoo's configurations whose every tensor is in `source`, with its shape; best known first.

    For a backbone alone, those with this very backbone and window size.
    """
    return [
        name
        for family in FAMILIES
        for name, entry in family.entries.items()
        if _fits(source, entry.model)
    ]


def _fits(source: Source, config: ModelConfig) -> bool:
    if not _may_fit(source, config):
        return False
    pairing = _Pairing(source, config, "float32")
    specs = expected(config)
    try:
        if source.naming == "hugging_face":
            hugging_face.check_supported(config)
            pairing.pair_library(specs)
        elif backbones.is_backbone(source.tensors):
            pairing.pair_backbone({n: s for n, s in specs.items() if n.startswith("backbone.")})
            if any(pair.rule.startswith("bicubic") for pair in pairing.pairs):
                return False
        else:
            pairing.pair_original(specs)
        pairing.check()
    except InputError:
        return False
    return True


def _may_fit(source: Source, config: ModelConfig) -> bool:
    """A quick look at one tensor, before a configuration's whole list is made."""

    def shape_of(name: str) -> tuple[int, ...] | None:
        if source.naming == "hugging_face":
            try:
                name = hugging_face.names(name)[0]
            except InputError:
                return None
        return source.tensors[name].shape if name in source.tensors else None

    fits = family_of(config).state.is_headed(config, shape_of)
    return backbones.is_backbone(source.tensors) if fits is None else fits
