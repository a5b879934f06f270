"""Two input pipelines, example by example: order, keys, dtypes, sizes, pixels, masks, classes."""

import base64
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np

from parity.claims import Claim, Place, claim, verdict_of
from parity.comparing import pictures
from parity.comparing.relations import close, relation
from parity.comparing.running import as_array, values_of
from parity.errors import InputError
from parity.judge import PRECISION_FACTOR
from parity.measurements import Findings, Largest
from parity.provenance import provenance
from parity.results import Result

ALARM = 1e-6
"""How often a bias is seen where there is none."""
MOST_BIAS = NormalDist().inv_cdf(1 - ALARM / 2)
BLOCK = 8  # pixels along a side of what counts as one draw of a difference
KEPT = 8  # pairs of arrays from which a cause is looked for
MOST_CLASSES = 8  # that a text lists
KINDS = {"f": "numbers", "b": "masks"}

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Field:
    """One array of the examples, over all that were compared.

    Args:
        key: its name.
        kind: "pixels", "numbers", "masks" or "classes".
        examples: how many had it on both sides, in one size.
        different: how many of them differ at all.
        share: part of the elements that differ.
        largest: largest difference of an element; of pixels in levels.
        mean: mean signed difference, port minus reference.
        bias: that in units of its standard error; None where nothing differs.
        limit: the largest difference that passes.
        overlap: the smallest intersection over union of masks.
        detail: the first example that differs by more, the element and both values.
        cause: what the port's array seems to be.
    """

    key: str
    kind: str
    examples: int
    different: int
    share: float
    largest: float
    mean: float
    bias: float | None
    limit: float
    overlap: float | None = None
    detail: str = ""
    cause: str = ""


@dataclass(frozen=True, kw_only=True)
class ExamplesResult(Result):
    """What comparing two input pipelines found.

    Args:
        count: how many examples were compared.
        fields: every array, over all examples.
        first: the first example that differs, and the array in it.
        picture: of that array: the reference's, the port's and where they differ; a PNG in base64.
    """

    schema: ClassVar[str] = "maskformer-replication/examples/1"

    count: int
    fields: tuple[Field, ...]
    first: str = ""
    picture: str = ""


def compare_examples(
    reference: Iterable[Mapping[str, Any]],
    port: Iterable[Mapping[str, Any]],
    limit: int | None = None,
    *,
    levels: Mapping[str, float] | None = None,
    title: str = "Examples",
    command: str = "parity.compare_examples(reference, port)",
) -> ExamplesResult:
    """Whether two input pipelines give the same examples in the same order: a result for `save`.

    Classes and masks are the same; pixels differ by at most the levels that are allowed, and then
    with no bias: their mean signed difference is what differences of either sign leave by chance.
    Numbers agree to 4 roundings of their dtype.

    Args:
        reference, port: give examples, mappings of arrays, tensors, numbers or texts; structures
            within are taken apart, and each array is known by its dotted name.
        limit: how many examples are compared, by default all.
        levels: by name of an array, by how much a pixel may differ, in its own units; by default
            not at all. Integers [H,W,3] are pixels without being named.
        title, command: what a report calls it, and what measures it again.
    Returns: the claims, each with its place and cause, and a picture of the first difference.
    Raises: InputError where a side gives no example, or what is no mapping of arrays.

    Example:
        >>> import numpy
        >>> image = numpy.arange(48, dtype="uint8").reshape(4, 4, 3)
        >>> result = parity.compare_examples(
        ...     [{"image": image, "label": 3}], [{"image": image[..., ::-1], "label": 3}]
        ... )
        >>> result.verdict, result.fields[0].cause
        ('different', 'its channels are in reverse order')
    """
    theirs = [_arrays(one, "reference") for one in itertools.islice(reference, limit)]
    ours = [_arrays(one, "port") for one in itertools.islice(port, limit)]
    for side, examples in (("reference", theirs), ("port", ours)):
        if not examples:
            raise InputError(
                f"the {side} gives no example",
                "there is nothing to compare",
                "give an iterable that starts anew, such as a list or a loader",
            )
    found = _Found(theirs, ours, levels or {})
    claims = found.claims(command)
    return ExamplesResult(
        title=title,
        verdict=verdict_of(claims),
        claims=tuple(claims),
        command=command,
        provenance=provenance(),
        count=len(found.pairs),
        fields=tuple(one.field() for one in found.fields.values()),
        first=found.first,
        picture=found.picture,
    )


def _arrays(example: Any, side: str) -> dict[str, np.ndarray]:
    if not isinstance(example, Mapping):
        raise InputError(
            f"the {side} gives a {type(example).__name__}, which is no mapping",
            "arrays are known by their names",
            "give each example as a dictionary",
        )
    return {name: as_array(one) for name, one in values_of(example)}


@dataclass
class _Field:
    """What is measured of one array."""

    key: str
    kind: str
    level: float
    pairs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    sums: list[np.ndarray] = field(default_factory=list)
    examples: int = 0
    different: int = 0
    elements: int = 0
    other: int = 0
    largest: float = 0.0
    total: float = 0.0
    above: float = 0.0
    limit: float = 0.0
    overlap: float | None = None
    detail: str = ""
    wrong: list[int] = field(default_factory=list)

    def add(self, index: int, ours: np.ndarray, theirs: np.ndarray) -> None:
        """Measures one example's arrays, which have one shape."""
        self.examples += 1
        self.elements += theirs.size
        if theirs.dtype.kind not in "fiub" or ours.dtype.kind not in "fiub":
            self._exactly(index, ours, theirs)
            return
        wide = [one.astype(np.float64) for one in (ours, theirs)]
        alike = np.asarray((ours == theirs) | (np.isnan(wide[0]) & np.isnan(wide[1])))
        with np.errstate(invalid="ignore"):
            apart = np.where(alike, 0.0, wide[0] - wide[1])
        apart = np.where(np.isfinite(apart), apart, np.inf)
        size = np.abs(apart)
        limit = self.level if self.kind != "numbers" else max(self.level, _rounding(theirs))
        self.limit = max(self.limit, limit)
        self.other += int((size > 0).sum())
        self.largest = max(self.largest, float(size.max(initial=0.0)))
        self.total += float(apart.sum())
        if self.kind == "masks":
            self._overlap(ours.astype(bool), theirs.astype(bool))
        if self.kind in ("pixels", "numbers") and math.isfinite(self.largest):
            self.sums.append(blocks_of(apart))
        if not alike.all():
            self.different += 1
            if len(self.pairs) < KEPT:
                self.pairs.append((ours, theirs))
        if size.max(initial=0.0) > limit:
            where = np.unravel_index(int(size.argmax()), size.shape)
            self._wrong(index, ours, theirs, tuple(int(i) for i in where))

    def _exactly(self, index: int, ours: np.ndarray, theirs: np.ndarray) -> None:
        other = np.asarray(ours != theirs)
        if other.any():
            self.different += 1
            self.other += int(other.sum())
            self.largest = math.inf
            where = np.unravel_index(int(other.argmax()), other.shape)
            self._wrong(index, ours, theirs, tuple(int(i) for i in where))

    def _wrong(
        self, index: int, ours: np.ndarray, theirs: np.ndarray, where: tuple[int, ...]
    ) -> None:
        self.wrong.append(index)
        if not self.detail:
            place = f" at {list(where)}" if where else ""
            self.detail = (
                f"example {index}{place}: port {ours[where]!s}, reference {theirs[where]!s}"
            )

    def _overlap(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        both, either = float((ours & theirs).sum()), float((ours | theirs).sum())
        found = both / either if either else 1.0
        self.overlap = found if self.overlap is None else min(self.overlap, found)

    @property
    def bias(self) -> float | None:
        """The mean signed difference in units of its standard error, by blocks of pixels."""
        return bias_of(self.sums) if self.sums and self.other else None

    @property
    def cause(self) -> str:
        """What the port's array seems to be, where it differs by more than it may."""
        if not self.wrong or not self.pairs:
            return ""
        return (
            relation(self.pairs, close(_relative(self))) or _classes(self) or _channels(self) or ""
        )

    def field(self) -> Field:
        """What was measured, for the result."""
        return Field(
            self.key,
            self.kind,
            self.examples,
            self.different,
            self.other / self.elements if self.elements else 0.0,
            self.largest,
            self.total / self.elements if self.elements else 0.0,
            self.bias,
            self.limit,
            self.overlap,
            self.detail,
            self.cause,
        )


def _rounding(theirs: np.ndarray) -> float:
    """What a few roundings of the reference's dtype leave of its largest number."""
    if theirs.dtype.kind != "f" or not theirs.size:
        return 0.0
    finite = np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)
    return PRECISION_FACTOR * float(np.finfo(theirs.dtype).eps) * float(finite)


def _relative(one: _Field) -> float:
    """The limit of an array, relative to its largest number."""
    peak = max(
        float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)) for _, theirs in one.pairs
    )
    return one.limit / peak if peak else 0.0


def bias_of(sums: Sequence[np.ndarray]) -> float:
    """The mean of signed differences in units of its standard error; `sums` are those of blocks of
    pixels (`blocks_of`), and without a bias it is above `MOST_BIAS` once in a million times."""
    blocks = np.concatenate(sums)
    error = float(blocks.std(ddof=1)) / math.sqrt(len(blocks)) if len(blocks) > 1 else 0.0
    mean = abs(float(blocks.mean()))
    return mean / error if error else (math.inf if mean else 0.0)


def blocks_of(apart: np.ndarray) -> np.ndarray:
    """Mean differences of blocks of neighbouring pixels, which rounding moves together."""
    if apart.ndim < 2:
        return np.atleast_1d(apart.mean() if apart.size else 0.0)
    axes = sorted(sorted(range(apart.ndim), key=lambda axis: -apart.shape[axis])[:2])
    plane = apart.mean(axis=tuple(axis for axis in range(apart.ndim) if axis not in axes))
    return np.array(
        [
            plane[row : row + BLOCK, column : column + BLOCK].mean()
            for row in range(0, plane.shape[0], BLOCK)
            for column in range(0, plane.shape[1], BLOCK)
        ]
    )


def _classes(one: _Field) -> str | None:
    """Which class becomes which, where each becomes one alone."""
    if one.kind != "classes" or any(a.dtype.kind not in "iu" for pair in one.pairs for a in pair):
        return None
    pairs = np.unique(
        np.concatenate([np.stack([t.ravel(), o.ravel()], 1) for o, t in one.pairs]).astype(
            np.int64
        ),
        axis=0,
    )
    if len(np.unique(pairs[:, 0])) < len(pairs):
        return None
    moved = [f"{a} becomes {b}" for a, b in pairs if a != b]
    more = f" and {len(moved) - MOST_CLASSES} more" if len(moved) > MOST_CLASSES else ""
    return f"class {', '.join(moved[:MOST_CLASSES])}{more}"


def _channels(one: _Field) -> str | None:
    """Another factor and another shift of each channel."""
    for axis in (-1, 0):
        if any(t.ndim != 3 or t.shape[axis] != 3 or o.shape != t.shape for o, t in one.pairs):
            continue
        lines = []
        for channel in range(3):
            ours, theirs = (
                np.concatenate([pair[side].take(channel, axis).ravel() for pair in one.pairs])
                for side in (0, 1)
            )
            ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
            if len(np.unique(theirs)) < 3:
                return None
            slope, start = np.polyfit(theirs, ours, 1)
            if not np.allclose(slope * theirs + start, ours, rtol=0, atol=one.limit * (1 + slope)):
                return None
            lines.append(f"times {slope:.6g} plus {start:.6g}")
        return f"its channels are the reference's {'; '.join(lines)}"
    return None


class _Found:
    """What was measured of all examples."""

    def __init__(
        self, theirs: Sequence[Arrays], ours: Sequence[Arrays], levels: Mapping[str, float]
    ) -> None:
        self.counts = (len(theirs), len(ours))
        self.identity, order = _order(theirs, ours)
        self.misplaced = [index for index, place in enumerate(order) if index != place]
        self.pairs = [(theirs[index], ours[place]) for index, place in enumerate(order)]
        self.keys: list[str] = []
        self.dtypes: list[str] = []
        self.sizes: list[str] = []
        self.fields: dict[str, _Field] = {}
        self.first, self.picture, self.shaped = "", "", 0
        known = {key for one in (*theirs, *ours) for key in one}
        unknown = [key for key in levels if key not in known]
        if unknown:
            raise InputError(
                f"`{unknown[0]}` is no array of the examples",
                f"they have {', '.join(sorted(known))}",
                "mend the name in `levels`",
            )
        for index, (reference, port) in enumerate(self.pairs):
            self._compare(index, reference, port, levels)

    def _compare(
        self, index: int, theirs: Arrays, ours: Arrays, levels: Mapping[str, float]
    ) -> None:
        for side, one, other in (("port", ours, theirs), ("reference", theirs, ours)):
            self.keys += [
                f"example {index}: {key} is lacking in the {side}"
                for key in other
                if key not in one
            ]
        for key, array in theirs.items():
            if key not in ours:
                continue
            found = ours[key]
            if found.dtype != array.dtype and array.dtype.kind in "fiub":
                self.dtypes.append(
                    f"example {index}: {key} is {found.dtype} instead of {array.dtype}"
                )
            self.shaped += 1
            if found.shape != array.shape:
                text = (
                    f"example {index}: {key} is {list(found.shape)} instead of {list(array.shape)}"
                )
                self.sizes.append(text + _cut(found, array))
                self._note(index, key, found, array)
                continue
            if key not in self.fields:
                self.fields[key] = _Field(key, _kind(key, array, levels), levels.get(key, 0.0))
            before = len(self.fields[key].wrong)
            self.fields[key].add(index, found, array)
            if len(self.fields[key].wrong) > before:
                self._note(index, key, found, array)

    def _note(self, index: int, key: str, ours: np.ndarray, theirs: np.ndarray) -> None:
        """Keeps the first difference, and draws the first that can be drawn."""
        self.first = self.first or f"example {index}, {key}"
        if not self.picture:
            drawn = pictures.side_by_side(theirs, ours)
            if drawn is not None:
                self.picture = base64.b64encode(drawn).decode()

    def claims(self, command: str) -> list[Claim]:
        """What the two pipelines claim."""
        return list(self._claims(command))

    def _claims(self, command: str) -> Iterator[Claim]:
        a, b = self.counts
        counts = [] if a == b else [f"{b} examples instead of {a}"]
        yield _finding("count", "Both give the same number of examples", max(a, b), counts, command)
        text = f"the same {self.identity} comes at another place" if self.identity else ""
        order = [f"example {index}: {text}" for index in self.misplaced]
        yield _finding("order", "Both give the examples in the same order", a, order, command)
        total = sum(len(theirs) for theirs, _ in self.pairs)
        titles = (
            ("keys", "Both have arrays of the same names", total, self.keys),
            ("dtypes", "Arrays of one name have one dtype", self.shaped, self.dtypes),
            ("sizes", "Arrays of one name have one size", self.shaped, self.sizes),
        )
        for identity, title, of, found in titles:
            yield _finding(identity, title, of, found, command)
        for kind, title in (
            ("masks", "Every mask is the same"),
            ("classes", "Every class is the same"),
        ):
            fields = [one for one in self.fields.values() if one.kind == kind]
            if fields:
                wrong = [f"{one.key}, example {index}" for one in fields for index in one.wrong]
                of = sum(one.examples for one in fields)
                yield _located(_finding(kind, title, of, wrong, command), fields)
        for kind, title in (
            ("pixels", "No pixel differs by more than the levels that are allowed"),
            ("numbers", "Every number agrees to rounding"),
        ):
            fields = [one for one in self.fields.values() if one.kind == kind]
            if fields:
                yield _located(_within(kind, title, fields, command), fields)
        fields = [one for one in self.fields.values() if one.bias is not None and one.level]
        if fields:
            yield _unbiased(fields, command)


def _finding(identity: str, title: str, of: int, found: Sequence[str], command: str) -> Claim:
    one = claim(identity, title, Findings(of, list(found)), "none may be another", command)
    return one if one.holds else one.located(Place(identity, found[0]))


def _within(identity: str, title: str, fields: Sequence[_Field], command: str) -> Claim:
    values = {one.key: _quotient(one.largest, one.limit) for one in fields}
    return claim(
        identity,
        title,
        Largest(values, 1.0, beside_it={"largest": {one.key: one.largest for one in fields}}),
        "largest difference in units of its limit: the levels that were allowed, and of floats "
        "4 roundings of the largest number",
        command,
    )


def _unbiased(fields: Sequence[_Field], command: str) -> Claim:
    """That tolerated differences have no direction."""
    one = claim(
        "bias",
        "Pixels that differ do so in both directions alike",
        Largest({one.key: float(one.bias or 0.0) for one in fields}, MOST_BIAS),
        "mean signed difference in units of its standard error over blocks of "
        f"{BLOCK} x {BLOCK} pixels; without a bias it is above the limit once in a million times",
        command,
    )
    if one.holds:
        return one
    worst = max(fields, key=lambda each: each.bias or 0.0)
    mean = worst.total / worst.elements
    return replace(one, place=Place(worst.key, f"{worst.key}: {mean:+.3g} levels on average"))


def _located(one: Claim, fields: Sequence[_Field]) -> Claim:
    wrong = [each for each in fields if each.wrong]
    if one.holds or not wrong:
        return one
    first = min(wrong, key=lambda each: each.wrong[0])
    return one.located(Place(first.key, f"{first.key}, {first.detail}"), first.cause or None)


def _quotient(value: float, limit: float) -> float:
    return 0.0 if value == 0 else value / limit if limit else math.inf


def _kind(key: str, array: np.ndarray, levels: Mapping[str, float]) -> str:
    coloured = array.ndim == 3 and 3 in (array.shape[0], array.shape[-1])
    if key in levels or (coloured and array.dtype == np.uint8):
        return "pixels"
    return KINDS.get(array.dtype.kind, "classes")


def _cut(ours: np.ndarray, theirs: np.ndarray) -> str:
    """What the sizes share, where that is the same."""
    if ours.ndim != theirs.ndim:
        return ""
    common = tuple(slice(0, min(pair)) for pair in zip(ours.shape, theirs.shape, strict=True))
    if ours[common].size and np.array_equal(ours[common], theirs[common]):
        return ", the same where both have numbers"
    turned = [
        axes
        for axes in itertools.permutations(range(theirs.ndim))
        if theirs.ndim <= 4 and theirs.transpose(axes).shape == ours.shape
    ]
    for axes in turned:
        if np.array_equal(theirs.transpose(axes), ours):
            return f", its axes in the order {', '.join(map(str, axes))}"
    return ""


def _order(theirs: Sequence[Arrays], ours: Sequence[Arrays]) -> tuple[str, list[int]]:
    """Which of the port's examples is which of the reference's, and the array that says so.

    By the first array whose values tell examples apart, where both sides have the same ones; else
    by their places.
    """
    count = min(len(theirs), len(ours))
    for key in theirs[0]:
        if not all(key in one for one in (*theirs, *ours)):
            continue
        sides = [[_digest(one[key]) for one in side[:count]] for side in (theirs, ours)]
        if len(set(sides[0])) == count and sorted(sides[0]) == sorted(sides[1]):
            places = {digest: index for index, digest in enumerate(sides[1])}
            return key, [places[digest] for digest in sides[0]]
    return "", list(range(count))


def _digest(array: np.ndarray) -> str:
    head = f"{list(array.shape)} ".encode()
    if array.dtype.kind in "iub":
        array = array.astype(np.int64)
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    """What of the arrays of a batch is not as in another's, in words, by name."""
    for name, value in ours.items():
        given, wanted = (np.asarray(one) for one in (value, theirs[name]))
        if given.dtype != wanted.dtype:
            yield f"{name} of the batch, {given.dtype} instead of {wanted.dtype}"
        elif np.array_equal(given, wanted):
            continue
        elif given.ndim and np.array_equal(given, wanted[..., ::-1]):
            yield f"{name} of the batch, the last axis in reverse"
        else:
            yield f"{name} of the batch"
