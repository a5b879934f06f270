"""The sections of a training step: two models compared from the losses to the next weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from parity.claims import Claim
from parity.results import Result
from reports import words
from reports.checks import equal
from reports.document import Chapter, Facts, Items, Section, Text, flatten, number
from reports.drawing import network
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.ladder import AUDITED
from reports.subjects import WEIGHTS, Subject, picked

EXPLANATION = (
    "Both sides make one float64 training step from the same weights, on the same image and "
    "targets, without dropout. Each stage is also run alone on what the reference hands to it, so "
    "that a claim that fails names its own place, or says where its error is inherited from."
)


@dataclass(frozen=True, kw_only=True)
class StepResult(Result):
    """One training step of both models, on one synthetic image of `size` ("HxW").

    Args:
        timings: seconds by part of the audit.
        not_verified: what the audit leaves open, a sentence each.
    """

    schema: ClassVar[str] = "maskformer-replication/training/2"

    config: str
    size: str
    timings: Mapping[str, float]
    not_verified: tuple[str, ...]


def chapter(one: Evidence, recorded: Sequence[Claim]) -> Chapter:
    """A training step's chapter: all that the result holds."""
    result = one.result
    drawn = network.blocks(recorded)
    return words.chapter(
        one,
        recorded,
        _headline(result),
        *([Section("Map of the network", drawn)] if drawn else []),
        Section("What is not verified", (Items(tuple(result.not_verified)),)),
        Section(
            "How it was run",
            (
                Facts((("config", result.config), ("image size", result.size))),
                Text("Time, in seconds:"),
                Facts(tuple(flatten(result.timings))),
            ),
        ),
        Section("Versions and hashes", (Facts(tuple(flatten(result.provenance))),)),
        about=EXPLANATION,
    )


def _headline(result: Mapping[str, Any]) -> str:
    """The verdict in one line: the first claim that fails and its place, or how many hold."""
    failed = result.failing
    if not failed:
        cases = sum(claim.cases for claim in result.claims)
        return (
            f"The port learns what the reference learns from this step: "
            f"{number(len(result.claims))} claims on {number(cases)} cases hold."
        )
    first = failed[0]
    cause = f", likely cause: {first.cause}" if first.cause else ""
    place = f" ({first.place.text})" if first.place else ""
    return f"Does not hold: {first.title}{place}{cause}; {number(len(failed))} claims fail."


def _subject(result: StepResult) -> Subject:
    """What tells such a result from others, beside the configuration."""
    return {
        "size": result.size,
        **picked(result.provenance, WEIGHTS),
        "isolated": any(one.id == "train_gradients_isolated" for one in result.claims),
    }


KIND = Kind(
    result=StepResult,
    name="training-step",
    title="Training step",
    detail=None,
    subject=_subject,
    rungs=AUDITED,
    chapter=chapter,
    recheck=equal,
    given={
        **dict.fromkeys(("config", "size"), "what was compared"),
        "timings": "times",
        "not_verified": "what the run says that it left open",
    },
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)
