"""Claims: value, limit and verdict come from a measurement, a place and a cause from who looked.

A claim carries its measurement, so that it can be judged again without a model, by other limits.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from parity.judge import Verdict
from parity.measurements import UNDECIDED, Margins, Matching, Measurement, Relative, of_json
from parity.records import number


@dataclass(frozen=True)
class Place:
    """Where a claim fails: the part, in words what of it, or that the difference is inherited.

    Args:
        part: a module's path, a tensor, or a part of a training step such as `criterion`.
        text: the same for people, such as `criterion: loss_mask`.
        inherited: whether the part is right, and only passes a difference on.
    """

    part: str
    text: str
    inherited: bool = False

    @classmethod
    def at(cls, part: str, detail: str = "") -> "Place":
        """A part that makes the difference itself; `detail` is what of it."""
        return cls(part, f"{part}: {detail}" if detail else part)

    @classmethod
    def inherits(cls, source: str) -> "Place":
        """A difference that comes from `source`."""
        return cls(source, f"inherited from {source}", True)

    @classmethod
    def edge(cls, part: str, tap: str) -> "Place":
        """A module, and the tensor at which it differs first."""
        return cls(part, f"{part}, at {tap}")

    @classmethod
    def of_text(cls, text: str) -> "Place":
        """The place of a recording from before places were recorded in parts."""
        if text.startswith("inherited from "):
            return cls.inherits(text.removeprefix("inherited from "))
        return cls(re.split("[:,]", text)[0], text)


NOWHERE = Place("no module differs alone", "no module differs alone")


@dataclass(frozen=True)
class Claim:
    """One claim of a result, judged from what was measured.

    Args:
        id: short name, unique in a result.
        verdict, value, limit, cases: what `measured` says (`parity.measurements.Judged`).
        derivation: where the limit comes from, in words a reader can check.
        evidence_sha256: digest of what was measured.
        command: the command that measures it again.
        measured: None where nothing was measured, as of a claim that was not run.
        place, causes: of a claim that fails, where and why, the likeliest cause first, where known.
        step: of a claim about steps, the one that decides.
    """

    id: str
    title: str
    verdict: str
    value: float | None
    limit: float | None
    cases: int | None
    derivation: str | None
    evidence_sha256: str | None
    command: str
    measured: Measurement | None = None
    place: Place | None = None
    causes: tuple[str, ...] = ()
    step: int | None = None

    @property
    def holds(self) -> bool:
        """Whether it was shown."""
        return self.verdict == "holds"

    @property
    def fails(self) -> bool:
        """Whether it was refuted; one that was neither shown nor refuted is not decided."""
        return self.verdict == "fails"

    @property
    def cause(self) -> str | None:
        """The likeliest cause, where one is known."""
        return self.causes[0] if self.causes else None

    @property
    def failure(self) -> str:
        """One line on a claim that does not hold: what, where, why."""
        place = f" [{self.place.text}]" if self.place else f" [{self.worst}]" if self.worst else ""
        cause = f", likely: {self.cause}" if self.cause else ""
        return f"{self.verdict}: {self.title}{place}{cause}"

    @property
    def worst(self) -> str:
        """Of a claim on margins that does not hold, the tensor that decides, its gap and its limit;
        "" for others."""
        if self.holds or not isinstance(self.measured, Margins):
            return ""
        verdicts = self.measured.verdicts().values()
        one = max(verdicts, key=lambda verdict: (verdict.fails, verdict.margin))
        if one.problem is not None:
            return f"{one.key}: {one.problem}"
        return f"{one.key}: {one.metric} {one.value:.2g}, limit {one.threshold.value:.2g}"

    @property
    def drowned(self) -> bool:
        """Whether what it measured is not decided: as far apart as rounding alone may be, though
        above the limit, or matched otherwise at the same cost."""
        return self.verdict == UNDECIDED and isinstance(
            self.measured, Margins | Matching | Relative
        )

    def located(self, place: Place, *causes: str | None) -> "Claim":
        """With where it fails, and why where that is known; one that does not stays as it is."""
        if not self.fails:
            return self
        return replace(self, place=place, causes=tuple(one for one in causes if one))

    def decided_by(self, step: int | None) -> "Claim":
        """With the step that decides it."""
        return replace(self, step=step)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; of a claim that has a place, its parts stand beside the text."""
        found: dict[str, Any] = {name: getattr(self, name) for name in WRITTEN}
        if self.measured is not None:
            found["measured"] = self.measured.to_json()
        if self.place is not None:
            found |= {
                "place": self.place.text,
                "part": self.place.part,
                "inherited": self.place.inherited,
                "cause": self.cause,
            }
            if len(self.causes) > 1:
                found["causes"] = list(self.causes)
        if self.step is not None:
            found["step"] = self.step
        return found

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Claim":
        """The inverse of `to_json`, also for recordings from before places had parts.

        Raises KeyError, TypeError or ValueError for an object that is no claim.
        """
        place = None
        if content.get("place") is not None:
            place = (
                Place(content["part"], content["place"], content["inherited"])
                if "part" in content
                else Place.of_text(content["place"])
            )
        measured = content.get("measured")
        cause = content.get("cause")
        numbers = {"value", "limit"}
        written = {name: content[name] for name in WRITTEN}
        return cls(
            *(_number(one) if name in numbers else one for name, one in written.items()),
            measured=None if measured is None else of_json(measured),
            place=place,
            causes=tuple(content.get("causes") or ([cause] if cause else [])),
            step=content.get("step"),
        )


def _number(value: Any) -> Any:
    """A number of a recorded claim: infinite ones and NaN are texts there."""
    return number(value) if isinstance(value, str) else value


WRITTEN = (
    "id",
    "title",
    "verdict",
    "value",
    "limit",
    "cases",
    "derivation",
    "evidence_sha256",
    "command",
)
"""What every recorded claim has; of one that was not run, some are None."""


def claim(identity: str, title: str, measured: Measurement, derivation: str, command: str) -> Claim:
    """A claim judged from what was measured, with the digest of that; arguments as in `Claim`."""
    judged = measured.judge()
    return Claim(
        identity,
        title,
        judged.verdict,
        judged.value,
        judged.limit,
        judged.cases,
        derivation,
        measured.sha256,
        command,
        measured,
    )


def margin_claim(
    identity: str,
    title: str,
    verdicts: Mapping[str, Verdict],
    derivation: str,
    command: str,
    lacking: Sequence[str] = (),
) -> Claim:
    """A claim that holds where every verdict passes; its value is the worst margin, its limit 1."""
    return claim(identity, title, Margins.of([*verdicts.values()], lacking), derivation, command)


def all_hold(claims: Sequence[Claim]) -> bool:
    """Whether every claim was shown."""
    return all(one.holds for one in claims)


def verdict_of(claims: Sequence[Claim], holds: str = "equal", fails: str = "different") -> str:
    """What claims say together: that all hold, that one does not, or only that rounding explains
    what one measured."""
    if all_hold(claims):
        return holds
    left = [one for one in claims if not one.holds]
    return UNDECIDED if all(one.drowned for one in left) else fails
