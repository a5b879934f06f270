"""The sections of a project's own test suite: the claims that its tests recorded."""

from collections.abc import Mapping, Sequence
from typing import Any

from parity.results import SUITE
from reports import words
from reports.checks import equal
from reports.document import Chapter, Facts, Section, Text, flatten, number
from reports.evidence import Evidence
from reports.kind import Kind, Special


def chapter(one: Evidence, claims: Sequence[Mapping[str, Any]]) -> Chapter:
    """A suite's chapter: all that the result holds."""
    result = one.content
    failed = [claim for claim in claims if claim["verdict"] == "fails"]
    count, cases = len(claims), sum(claim["cases"] for claim in claims)
    if failed:
        headline = f"{number(len(failed))} of {number(count)} claims fail: {failed[0]['title']}."
    else:
        headline = f"{number(count)} claims on {number(cases)} cases hold."
    return Chapter(
        title=one.title,
        verdict=result["verdict"],
        tone=words.tone(result["verdict"]),
        headline=headline,
        sections=(
            Section(
                "Claims",
                (
                    words.table([_of_test(claim) for claim in claims])
                    if count
                    else Text("No test recorded a claim."),
                ),
            ),
            Section("How it was run", (Facts((("command", result["command"]),)),)),
            Section("Versions and hashes", (Facts(tuple(flatten(result["provenance"]))),)),
        ),
    )


def _of_test(claim: Mapping[str, Any]) -> Mapping[str, Any]:
    """The claim with its test in the title: a suite's tests may claim the same."""
    return {**claim, "title": f"{claim['title']} ({claim['command'].removeprefix('pytest ')})"}


def _subject(content: Mapping[str, Any]) -> dict[str, Any]:
    """What tells such a result from others, beside the configuration."""
    return {"title": content["title"]}


KIND = Kind(
    schema=SUITE,
    name="suite",
    title="Test suite",
    detail=None,
    subject=_subject,
    rungs={"": "activations"},
    chapter=chapter,
    recheck=equal,
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)
