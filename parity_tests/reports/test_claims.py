"""The verdict line and the ladder say what the result says, and how far it is from its limit."""

import math
from dataclasses import replace

import pytest

from parity.auditing.result import AuditResult
from parity.claims import Claim, Place
from parity.measurements import Findings
from parity_tests.reports.results import audit_result, different_result
from reports.chapters.audit import headline
from reports.words import in_words, margin, table


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        (1e-15, 3.2e-14, "32 times below the limit"),
        (8.0, 4.0, "2 times the limit"),
        (624917.0, 1.0, "620,000 times the limit"),
        (0.0, 1e-12, "exact: the value is 0"),
        (0, 0, "exact: the value is 0"),
        (3, 0, "above the limit"),
        (math.nan, 1.0, "no margin: the value is not a number"),
        ("equal", None, "not a number to compare"),
    ],
)
def test_margin(value, limit, text):
    assert margin(value, limit) == text


def audit_of(content):
    return AuditResult.from_json(content)


def test_headline_of_equal_models_has_the_strongest_figures():
    result = audit_of(audit_result())
    worst = {"worst_gap": 3.14e-15, "limit": 2e-13, "worst_tap": "heads:output"}
    eager = replace(result.float32["eager"], worst_ratio=1.5, limit=4.0)
    result = replace(result, float64=replace(result.float64, **worst), float32={"eager": eager})
    assert headline(result) == (
        "The port computes what the reference computes, at all 436 tensors compared: worst float64 "
        "gap 3.1e-15, limit 2.0e-13 (heads:output); worst float32 error ratio eager 1.5, limit 4."
    )


def test_headline_of_different_models_names_place_and_cause():
    line = headline(audit_of(different_result()))
    assert line.startswith(
        "The port differs at sem_seg_head.predictor.transformer.decoder.layers.3.norm2, "
        "likely cause: epsilon 1e-6 instead of 1e-5; 436 tensors compared"
    )
    assert line.endswith("without a partner: 1.")


def test_headline_without_localisation_names_the_first_divergence():
    result = replace(audit_of(different_result()), localisations=())
    path = "sem_seg_head.predictor.transformer.decoder.layers.3.norm2"
    assert headline(result).startswith(f"The port differs at {path}; 436")


NOT_RUN = Claim(
    id="train_gradients",
    title="Same gradients",
    verdict="not run",
    value=None,
    limit=None,
    cases=0,
    derivation="the reference's own gradients",
    evidence_sha256=None,
    command="parity audit --train",
)


def test_ladder_keeps_order_and_verdicts():
    found, sound = (audit_of(one()).claims for one in (different_result, audit_result))
    recorded = [*found[1:3], sound[2], NOT_RUN]
    claims = [in_words(claim) for claim in recorded]
    assert [claim.title for claim in claims] == [claim.title for claim in recorded]
    assert [claim.verdict for claim in claims] == ["fails", "fails", "holds", "not run"]
    assert [claim.tone for claim in claims] == ["bad", "bad", "good", "open"]
    assert dict(claims[0].facts)["measured"] == "1"
    assert claims[3].facts == ()
    assert claims[3].evidence == "none recorded"


FAILS = Claim(
    id="same_function",
    title="Every tensor agrees",
    verdict="fails",
    value=0.0,
    limit=1.0,
    cases=1,
    derivation="its floor",
    evidence_sha256=None,
    command="a command",
)


def test_a_claim_that_fails_for_a_tensor_of_one_side_says_so_and_not_that_it_is_exact():
    claim = replace(FAILS, measured=Findings(1, [], lacking=("z", "w")))
    assert dict(in_words(claim).facts)["margin"] == "only on one side: z, w"
    assert "only on one side: z, w" in [cell.text for cell in table([claim]).rows[0]]


def test_the_table_says_where_a_claim_fails():
    (row,) = table([replace(FAILS, place=Place.at("backbone.stem"))]).rows
    assert row[1].text == "Every tensor agrees (backbone.stem)"
    (row,) = table([FAILS]).rows
    assert row[1].text == "Every tensor agrees"
