"""The sections of a training step: two models compared from the losses to the next weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from parity.results import TRAINING_STEP
from reports import words as claims
from reports.checks import equal
from reports.document import Chapter, Facts, Items, Section, Text, flatten, number
from reports.drawing import network
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.ladder import AUDITED
from reports.subjects import WEIGHTS, picked

EXPLANATION = (
    "Both sides make one float64 training step from the same weights, on the same image and "
    "targets, without dropout. Each stage is also run alone on what the reference hands to it, so "
    "that a claim that fails names its own place, or says where its error is inherited from."
)


def chapter(one: Evidence, recorded: Sequence[Mapping[str, Any]]) -> Chapter:
    """A training step's chapter: all that the result holds."""
    result = one.content
    drawn = network.blocks(recorded)
    return Chapter(
        title=one.title,
        verdict=result["verdict"],
        tone=claims.tone(result["verdict"]),
        headline=_headline(result),
        sections=(
            Section("Claims", (Text(EXPLANATION), claims.table(recorded))),
            *([Section("Map of the network", drawn)] if drawn else []),
            Section("What is not verified", (Items(tuple(result["not_verified"])),)),
            Section(
                "How it was run",
                (
                    Facts((("config", result["config"]), ("image size", result["size"]))),
                    Text("Time, in seconds:"),
                    Facts(tuple(flatten(result["timings"]))),
                ),
            ),
            Section("Versions and hashes", (Facts(tuple(flatten(result["provenance"]))),)),
        ),
    )


def _headline(result: Mapping[str, Any]) -> str:
    """The verdict in one line: the first claim that fails and its place, or how many hold."""
    failed = [claim for claim in result["claims"] if claim["verdict"] == "fails"]
    if not failed:
        cases = sum(claim["cases"] for claim in result["claims"])
        return (
            f"The port learns what the reference learns from this step: "
            f"{number(len(result['claims']))} claims on {number(cases)} cases hold."
        )
    first = failed[0]
    cause = f", likely cause: {first['cause']}" if first.get("cause") else ""
    place = f" ({first['place']})" if first.get("place") else ""
    return f"Does not hold: {first['title']}{place}{cause}; {number(len(failed))} claims fail."


def _subject(content: Mapping[str, Any]) -> dict[str, Any]:
    """What tells such a result from others, beside the configuration."""
    claims = [one["id"] for one in content["claims"]]
    return {
        "size": content["size"],
        **picked(content["provenance"], WEIGHTS),
        "isolated": "train_gradients_isolated" in claims,
    }


KIND = Kind(
    schema=TRAINING_STEP,
    name="training-step",
    title="Training step",
    detail=None,
    subject=_subject,
    rungs=AUDITED,
    chapter=chapter,
    recheck=equal,
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)
