"""Limits follow from floors; verdicts can be stored, read and judged again with other limits."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity import judge
from parity.claims import margin_claim
from parity.judge import Threshold, Verdict, same_decisions, same_function, same_precision
from parity.measurements import Margins
from parity.metrics import Gap, failed
from parity.pairing import Comparison
from parity.records import json_text, plain, typed
from parity_tests.parity import pairs

EPS = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)


def one(verdicts):
    (verdict,) = verdicts
    return verdict


@given(floor=st.floats(1e-15, 1e-8), share=st.floats(0.01, 3.0))
def test_same_function_passes_up_to_32_floors_and_1e_9(floor, share):
    limit = min(32 * floor, 1e-9)
    gaps = {"a": Gap(share * limit, 0.0)}
    verdict = one(same_function(gaps, {"a": Gap(floor, floor)}))
    assert verdict.threshold.value == limit
    assert verdict.passed == (share * limit <= limit)
    assert verdict.margin == pytest.approx(share)
    assert verdict.ratio == pytest.approx(share * limit / floor)


def test_each_metric_has_its_own_floor():
    floors = {"a": Gap(1e-15, 1e-13)}
    assert one(same_function({"a": Gap(1e-15, 3e-12)}, floors)).passed
    verdict = one(same_function({"a": Gap(1e-15, 4e-12)}, floors))
    assert (verdict.metric, verdict.passed) == ("max", False)
    verdict = one(same_function({"a": Gap(4e-14, 3e-12)}, floors))
    assert (verdict.metric, verdict.passed) == ("l2", False)


def test_a_constant_may_differ_by_its_last_place_but_not_more():
    floors = {"a": Gap(0.0, 0.0)}
    for peak in (1.0, 40.0):
        verdict = one(same_function({"a": Gap(0.0, 31 * EPS * peak, peak=peak)}, floors))
        assert verdict.passed
        verdict = one(same_function({"a": Gap(0.0, 33 * EPS * peak, peak=peak)}, floors))
        assert not verdict.passed
    assert not one(same_function({"a": Gap(33 * EPS, 0.0)}, floors)).passed


def test_same_precision_is_four_times_the_larger_of_error_and_floor():
    def verdict(port, reference, floor):
        gaps = ({"a": Gap(value, value)} for value in (port, reference, floor))
        return one(same_precision(*gaps))

    assert verdict(3.9e-5, 1e-5, 1e-7).passed
    assert not verdict(4.1e-5, 1e-5, 1e-7).passed
    assert verdict(3.9e-5, 1e-7, 1e-5).passed
    assert verdict(4.1e-5, 1e-7, 1e-5).ratio == pytest.approx(4.1)
    assert verdict(3.9 * EPS32, 0.0, 0.0).passed
    assert not verdict(4.1 * EPS32, 0.0, 0.0).passed


@pytest.mark.parametrize("problem", ["shape (1,) instead of (2,)", "axes NC instead of NH"])
def test_a_problem_never_passes(problem):
    verdict = one(same_function({"a": failed(problem)}, {"a": Gap(1.0, 1.0)}))
    assert not verdict.passed
    assert verdict.margin == math.inf
    assert str(verdict) == f"a: {problem} [same_function]"


def test_a_reference_without_a_floor_passes_nothing():
    verdict = one(same_function({"a": Gap(0.0, 0.0)}, {"a": failed("non-finite numbers")}))
    assert verdict.problem == "the reference has no floor here: non-finite numbers"


def test_a_verdict_reads_as_an_assertion():
    found = Gap(1.3e-4, 0.0, where=(3, 0), value=0.5, reference=0.25, shape=(5, 1))
    verdict = one(same_function({"decoder:output": found}, {"decoder:output": Gap(1e-10, 1e-9)}))
    assert str(verdict) == (
        "decoder:output is 0.00013, but should be below 1e-09 [same_function, l2]\n"
        "  largest at [3, 0]: port 0.5, reference 0.25"
    )
    assert verdict.threshold.derivation == "min(32 x floor 1e-10, 1e-09)"


def test_values_are_shown_with_the_digits_that_differ():
    found = Gap(1e-9, 1e-9, where=(1,), value=2.5000000025, reference=2.5)
    assert judge.describe(found) == "largest at [1]: port 2.500000003, reference 2.5"
    same = Gap(0.0, 0.0, where=(1,), value=2.5, reference=2.5)
    assert judge.describe(same) == "largest at [1]: port 2.5, reference 2.5"
    assert judge.describe(failed("shape")) == ""


@given(
    st.builds(
        Verdict,
        key=st.text(),
        claim=st.sampled_from(judge.CLAIMS),
        metric=st.sampled_from(judge.METRICS),
        value=st.floats(0),
        threshold=st.builds(Threshold, value=st.floats(0), floor=st.floats(0)),
        detail=st.text(),
        problem=st.none() | st.text(),
    )
)
def test_a_verdict_survives_strict_json(verdict):
    assert typed(Verdict, json.loads(json_text(plain(verdict)))) == verdict


def test_stored_gaps_are_judged_again_with_numpy_alone():
    script = """
import json, sys
from parity.judge import same_function
from parity.metrics import Gap
from parity.records import typed
import parity.localise, parity.trace, parity.pairing, parity.provenance
gaps, floors = ({"a": typed(Gap, json.loads(text))} for text in sys.argv[1:])
for factor in (32, 2):
    print(same_function(gaps, floors, factor=factor)[0].passed)
heavy = {"torch", "tensorflow", "tf_keras", "safetensors", "scipy", "jax"} & set(sys.modules)
print(sorted(heavy))
"""
    stored = [json.dumps(plain(Gap(value, 0.0))) for value in (1e-13, 1e-14)]
    done = subprocess.run(
        [sys.executable, "-c", script, *stored], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:3] == ["True", "False", "[]"]


def test_same_decisions_equal():
    scores = np.random.default_rng(0).normal(size=(4, 5))
    verdict = same_decisions("kept", scores + 1e-3, scores, error=0.0)
    assert verdict.passed
    assert verdict.detail == "all 4 decisions are the same"


def test_same_decisions_excuses_margins_below_the_derived_error_only():
    reference = np.array([[0.0, 1.0, 0.999], [3.0, 1.0, 2.0]])
    port = reference + np.array([[0.0, -0.001, 0.001], [0.0, 0.0, 0.0]])
    close = same_decisions("class", port, reference, error=0.001)
    assert close.passed
    far = same_decisions("class", port, reference, error=0.0001)
    assert not far.passed
    assert far.value == pytest.approx(5.0)
    assert far.detail == (
        "1 of 2 decisions differ; worst at [0]: port 2, reference 1, margin 0.001, "
        "derived error 0.0002"
    )
    each = same_decisions("class", port, reference, error=np.array([0.001, 0.0]))
    assert each.passed
    across = same_decisions("class", port.T, reference.T, error=0.001, axis=0)
    assert (across.passed, across.value) == (close.passed, close.value)


def test_same_decisions_needs_comparable_scores():
    scores = np.ones((2, 3))
    assert same_decisions("a", scores, scores.T, 1.0).problem == "shape (2, 3) instead of (3, 2)"
    bad = np.array([[1.0, math.nan]])
    assert same_decisions("a", bad, bad, 1.0).passed
    found = same_decisions("a", bad, np.array([[1.0, 2.0]]), 1.0)
    assert found.problem == "non-finite scores on one side"


@pytest.fixture(scope="module")
def float32():
    """The errors of the float32 reference and its floors, from the float64 reference."""
    import torch

    from parity.frameworks.torch import capture as capture_torch

    _, trace, _ = pairs.reference()
    recorder = capture_torch.Recorder(pairs.reference_model(torch.float32), pairs.axes_torch)
    comparison = Comparison(trace)
    inputs = (pairs.image(np.float32),)
    recorder(inputs, comparison)
    return trace, comparison.gaps, capture_torch.measure_floors(recorder, inputs, trace)


def imprecise(float32, recorder):
    trace, errors, floors = float32
    comparison = Comparison(trace)
    recorder((pairs.nhwc(pairs.image(np.float32)),), comparison)
    assert comparison.unpaired == []
    verdicts = same_precision(comparison.gaps, errors, floors)
    return [verdict for verdict in verdicts if not verdict.passed]


@pytest.mark.parametrize("execution", ["eager", "graph", "xla"])
def test_same_precision_holds_for_the_sound_pair(float32, execution):
    assert [str(verdict) for verdict in imprecise(float32, pairs.port32()[execution])] == []


def test_same_precision_fails_on_a_planted_fault(float32):
    recorder = pairs.port(pairs.port_model("float32"))
    recorder.model.decoder.layers[1].attention.fault = "no scale"
    failing = imprecise(float32, recorder)
    assert failing[0].key == "decoder.layers.1.attention.out:input"


BADLY_CONDITIONED = Gap(8.29e-9, 8.29e-9)


@pytest.mark.parametrize(
    ("gap_", "verdict"),
    [(9e-10, "holds"), (6.03e-9, "not decided"), (2.6e-7, "not decided"), (3e-7, "fails")],
)
def test_no_limit_is_below_what_the_reference_does_to_itself(gap_, verdict):
    one = judge.function_verdict("scores", Gap(gap_, gap_), BADLY_CONDITIONED)
    assert (one.passed, one.undecided, one.fails) == (
        verdict == "holds",
        verdict == "not decided",
        verdict == "fails",
    )
    assert Margins.of([one]).judge().verdict == verdict
    good = judge.function_verdict("good", Gap(1e-15, 1e-15), Gap(1e-14, 1e-14))
    assert Margins.of([good, one]).judge().verdict == verdict
    bad = judge.function_verdict("bad", Gap(1e-12, 1e-12), Gap(1e-14, 1e-14))
    assert Margins.of([good, one, bad]).judge().verdict == "fails"


def test_a_metric_that_fails_outweighs_one_that_is_further_above_its_limit_and_undecided():
    one = judge.function_verdict("tap", Gap(2e-8, 4e-9), Gap(1e-9, 1e-10))
    assert one.fails
    assert one.metric == "max"


def test_a_reference_whose_own_numbers_are_not_finite_when_moved_decides_nothing():
    floor = failed("non-finite numbers")
    assert judge.function_verdict("tap", Gap(1e-3, 1e-3), floor).undecided
    assert judge.function_verdict("tap", failed("non-finite numbers"), floor).fails


def test_a_claim_that_fails_names_the_tensor_its_gap_and_its_limit():
    verdicts = [
        judge.function_verdict("large", Gap(3.2e-10, 3.2e-10), Gap(1e-10, 1e-10)),
        judge.function_verdict("wrong", Gap(1e-12, 1e-12), Gap(1e-14, 1e-14)),
    ]
    one = margin_claim("same", "Same", {v.key: v for v in verdicts}, "", "")
    assert one.failure == "fails: Same [wrong: l2 1e-12, limit 3.2e-13]"
    assert one.value == pytest.approx(1e-12 / 3.2e-13)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (3e-3, "bfloat16"),  # half a unit in the last of 8 bits
        (2.4e-4, "bfloat16 or float16"),  # a mean of the one, or numbers of the other
        (1e-5, "float16"),
        (6e-8, None),  # float32's own
        (5e-2, None),
    ],
)
def test_the_type_that_makes_an_error_is_named_where_it_can_be_told(error, name):
    assert judge.narrower(error) == name
