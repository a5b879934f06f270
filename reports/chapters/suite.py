"""The sections of a project's own test suite: the claims that its tests recorded."""

from collections.abc import Sequence
from dataclasses import replace

from parity.claims import Claim
from parity.results import SuiteResult
from reports import words
from reports.checks import equal
from reports.document import Chapter, Facts, Section, Text, flatten, number
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.subjects import Subject


def chapter(one: Evidence, claims: Sequence[Claim]) -> Chapter:
    """A suite's chapter: all that the result holds."""
    result = one.result
    failed = [claim for claim in claims if claim.verdict == "fails"]
    count, cases = len(claims), sum(claim.cases for claim in claims)
    if failed:
        headline = f"{number(len(failed))} of {number(count)} claims fail: {failed[0].title}."
    else:
        headline = f"{number(count)} claims on {number(cases)} cases hold."
    none = [] if claims else [Section("Claims", (Text("No test recorded a claim."),))]
    return words.chapter(
        one,
        [_of_test(claim) for claim in claims],
        headline,
        *none,
        Section("How it was run", (Facts((("command", result.command),)),)),
        Section("Versions and hashes", (Facts(tuple(flatten(result.provenance))),)),
    )


def _of_test(claim: Claim) -> Claim:
    """The claim with its test in the title: a suite's tests may claim the same."""
    return replace(claim, title=f"{claim.title} ({claim.command.removeprefix('pytest ')})")


def _subject(result: SuiteResult) -> Subject:
    """What tells such a result from others, beside the configuration."""
    return {"title": result.title}


KIND = Kind(
    result=SuiteResult,
    name="suite",
    title="Test suite",
    detail=None,
    subject=_subject,
    rungs={"": "activations"},
    chapter=chapter,
    recheck=equal,
    given={},
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(of_pairs=True),
)
