"""Dropout of a training step: the same masks fed to both sides."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.claims import NOWHERE, Claim, Place, claim, margin_claim
from parity.judge import same_function
from parity.localise import Explain, localise
from parity.masks import Drawn, Masks, mask_differences
from parity.measurements import Findings
from parity.on_disk import TraceOnDisk
from parity.pairing import Comparison
from parity.trace import Axes

MeasureFloors = Callable[..., Mapping[str, Any]]


@dataclass(frozen=True)
class Replayed(Masks):
    """The masks that the reference drew, as the port lays them out.

    Args:
        drawn: what the reference drew, by place. A mask of the reference's shape has its elements
            in the same order; one whose axes are only in another order has those that `axes` and
            `theirs` name.
        theirs: the reference's axes.
    """

    drawn: dict[str, Drawn] = field(default_factory=dict)
    theirs: Axes = lambda path, kind, name, rank: ""

    def kept(self, place: str, path: str, shape: tuple[int, ...], keep: float) -> np.ndarray | None:
        """bool of `shape`: which elements the mask drawn at `place` keeps."""
        known = self.drawn.get(place)
        plain = Masks(self.seed, lambda path, kind, name, rank: "")
        if known is None or known.shape == shape or sorted(known.shape) != sorted(shape):
            return plain.kept(place, path, shape, keep)
        before, after = (one(path, "mask", "", len(shape)) for one in (self.theirs, self.axes))
        mask = plain.kept(place, path, known.shape, keep)
        if mask is None or sorted(before) != sorted(after):
            return plain.kept(place, path, shape, keep)
        return np.ascontiguousarray(mask.transpose([before.index(axis) for axis in after]))


def dropout_claim(
    theirs: Any,
    ours: Any,
    inputs: tuple[Any, Any],
    measure_floors: MeasureFloors,
    explain: Explain | None,
    command: str,
) -> tuple[Claim | None, int]:
    """The forward pass in training mode, fed the same masks; None for a model without dropout.

    Where a mask is drawn at another place, or between other tensors, a module differs or lacks it.

    Args:
        theirs, ours: the recorders of both sides, with masks, of models in training mode. Where
            the port's masks are `Replayed`, it is given what the reference drew.
        inputs: the reference's and the port's.
        measure_floors, explain: the reference's framework's.
    Returns: the claim, and how many masks the reference draws.
    """
    trace = TraceOnDisk()
    theirs(inputs[0], trace.add)
    calls, drawn = theirs.calls, dict(theirs.drawn)
    if isinstance(ours.masks, Replayed):
        ours.masks.drawn.update(drawn)
    comparison = Comparison(trace)
    ours(inputs[1], comparison)
    if not drawn and not ours.drawn:
        return None, 0
    floors = measure_floors(theirs, inputs[0], trace)
    theirs.calls = calls
    other = [*mask_differences(ours.drawn, drawn), *comparison.missing()]
    verdicts = {one.key: one for one in same_function(comparison.gaps, floors)}
    one = margin_claim(
        "train_dropout",
        "In training mode, fed the same dropout masks, every layer agrees in float64",
        verdicts,
        f"largest gap in units of its limit, min(32 x floor, 1e-9); {len(drawn)} masks, drawn "
        "at the same places, of the same size and probability",
        command,
        other,
    )
    if not one.fails:
        return one, len(drawn)
    found = localise(theirs, ours, trace, inputs[1], floors, explain)
    place = Place.edge(found[0].path, found[0].edge) if found else NOWHERE
    if other:
        # Where a mask is drawn otherwise, its module is at fault, whatever differs first.
        path = re.split("[@:]", other[0])[0]
        place = place if path in place.text else Place.edge(path, other[0])
        words = "; ".join(_first_of_each_kind(other))
        return one.located(place, f"dropout is in another place: {words}"), len(drawn)
    return one.located(place, found[0].cause if found else None), len(drawn)


def _first_of_each_kind(differences: Sequence[str]) -> list[str]:
    """The first place that lacks dropout, the first that has too much, and so on."""
    found: dict[str, str] = {}
    for one in differences:
        kind = re.sub(r"[\d.e-]+", "", one.partition(": ")[2])
        found.setdefault(kind, one)
    return list(found.values())


def draws_claim(seeds: Sequence[Any], wanted: int, command: str) -> Claim:
    """That a port's own step draws as many masks as the model has, each by a seed of its own.

    Args:
        seeds: those of the masks that one step draws.
        wanted: how many masks the reference draws.
    """
    found = [f"{len(seeds)} masks instead of {wanted}"] if len(seeds) < wanted else []
    again = len(seeds) - len(set(seeds))
    found += [f"{again} masks have the seed of another"] if again else []
    one = claim(
        "train_dropout_draws",
        "The training step drops what the model drops, by a mask of its own at every place",
        Findings(wanted, found),
        "masks that the step draws, and seeds that occur twice; with one seed all masks of a shape "
        "are the same",
        command,
    )
    cause = "several masks are drawn from one seed" if again else None
    if not seeds:
        cause = "the step calls the model without training=True"
    return one.located(Place.at("train step", "; ".join(found)), cause)
