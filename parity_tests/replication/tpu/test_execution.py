"""The executed step of several replicas is judged; mistakes planted in its program are named."""

import dataclasses
import json
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from typer.testing import CliRunner

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)
from maskformer.model import zoo
from parity.errors import InputError
from parity.judge import MORE, PRECISION_FACTOR
from parity.records import strict
from parity.training.measured import TWINS
from parity.training.trajectory import weight_gap
from replication.cli import app
from replication.tpu import execution, mistakes
from replication.tpu.execution import Request, executed_step
from replication.tpu.ranks import Ranked, Share
from replication.tpu.stepping import NORM, TOTAL, Exact, further_gradients, measured_updates
from replication.tpu.training_case import training_case
from reports.loading import of_result
from reports.render import write_report
from reports.verification.recheck import recheck
from reports.verification.verify import verify
from tf_impl.tpu.reductions import WRONG

CLIP = 0.01
REPLICAS = 3
ERROR = 1e-6
CONFIG = zoo.model_config("tiny")


def drawn():
    """Shares of three ranks, whose images have different numbers of targets, and their case."""
    random = np.random.default_rng(5)
    names = ("loss_ce", "loss_mask", "loss_dice_0")
    given = [
        Share(
            {name: float(random.uniform(1, 3)) for name in names},
            {key: random.normal(size=(4, 3)) for key in ("a.weight", "a.bias", "b.weight")},
        )
        for _ in range(REPLICAS)
    ]
    targets = [{"labels": np.zeros(count)} for count in (3, 5, 4)]
    case = SimpleNamespace(
        config=CONFIG,
        clip=CLIP,
        replicas=REPLICAS,
        per_replica=1,
        batches=[SimpleNamespace(targets=targets)],
    )
    return case, given


def found(case, given, wrong, normalisation="global"):
    """What replicas have by a mistake, in float32."""
    gradients = [one.gradients for one in given]
    total = mistakes._summed(gradients, [1.0] * REPLICAS)
    if wrong == "partly-summed":
        have = [{**total, "a.weight": one["a.weight"]} for one in gradients]
    elif wrong in ("", "counts-apart"):
        have = [total] * REPLICAS
    else:
        have = mistakes._EXPECTED[wrong](gradients, CLIP)
    losses = [one.losses for one in given]
    if wrong == "counts-apart":
        losses = mistakes._divided_apart(case, normalisation, given)
    return mistakes.Found(
        losses,
        [{key: np.float32(array) for key, array in one.items()} for one in have],
        ERROR,
        ERROR,
    )


@pytest.mark.parametrize("normalisation", ["global", "ddp_mean"])
@pytest.mark.parametrize("wrong", ["", *WRONG])
def test_a_mistake_is_named_by_what_replicas_have(wrong, normalisation):
    case, given = drawn()
    told = mistakes.cause(case, normalisation, given, found(case, given, wrong, normalisation))
    assert told == (WRONG[wrong].what if wrong else None)


def test_a_mistake_that_is_none_of_these_has_no_name():
    case, given = drawn()
    other = found(case, given, "share-lost")
    for one in other.gradients:
        one["b.weight"] = one["b.weight"] * np.float32(1.01)
    assert mistakes.cause(case, "global", given, other) is None


def test_counts_apart_are_what_each_replica_counts():
    """By hand, of the second replica: five of twelve targets over three replicas."""
    case, given = drawn()
    eos, queries = np.float32(CONFIG.loss.no_object_weight), CONFIG.matching.queries
    own = given[1].losses
    by_rank = mistakes._divided_apart(case, "ddp_mean", given)[1]
    assert by_rank["loss_ce"] == own["loss_ce"]
    assert by_rank["loss_mask"] == pytest.approx(own["loss_mask"] * (12 / 3) / (5 / 3))
    together = mistakes._divided_apart(case, "global", given)[1]
    assert together["loss_dice_0"] == pytest.approx(own["loss_dice_0"] * 12 / 5)
    weights = [count + (queries - count) * eos for count in (3, 5, 4)]
    assert together["loss_ce"] == pytest.approx(own["loss_ce"] * sum(weights) / weights[1])


def test_a_case_has_other_images_in_every_step_and_replica():
    case = training_case(zoo.get("tiny"), (64, 96), (2, 1), 2, 8)
    first, second = (one.images for one in case.batches)
    assert first.shape == (2, 64, 96, 3)
    assert not np.array_equal(first, second)
    assert not np.array_equal(*first)
    counts = [len(one["labels"]) for one in case.batches[0].targets]
    assert counts[0] != counts[1]  # so that what is divided by one's own count shows
    assert np.array_equal(case.batches[0].part(1, 1).images, first[1:])
    moved = case.moved(0)
    gap = weight_gap(
        {key: one for key, one in moved.state.items() if one.dtype == np.float32},
        {key: one for key, one in case.weights.state.items() if one.dtype == np.float32},
    )
    assert 0 < gap < 2.0**-22


def test_targets_that_a_step_would_drop_are_refused():
    with pytest.raises(InputError, match="the reference drops none"):
        training_case(zoo.get("tiny"), (64, 96), (2, 1), 1, 2)


def request(**named):
    """Two replicas of a small MaskFormer."""
    entry = zoo.get("scenes_tiny")
    model = entry.model.replace(
        pixel_decoder={"conv_dim": 32, "mask_dim": 32, "transformer_enc_layers": 1},
        predictor={"hidden_dim": 32, "num_queries": 8, "dim_feedforward": 32, "dec_layers": 1},
    )
    small = dataclasses.replace(entry, model=model)
    return Request(small, (64, 64), targets=8, **named)


@pytest.fixture(scope="module")
def result():
    return executed_step(request(steps=2, products=(1,)))


def test_replicas_make_the_updates_of_one_process_and_of_ranks(result):
    assert [(one.id, one.value) for one in result.claims if not one.holds] == []
    rules = {"global", "ddp_mean"}
    asked = {"losses", "gradients", "weights", "steps", "replicas"}
    assert {one.id for one in result.claims} == {f"{a}/{b}" for a in rules for b in asked}


@pytest.mark.slow
def test_parts_of_replicas_make_the_updates_of_as_many_ranks():
    found = executed_step(request(steps=1, per_replica=2, parts=2))
    assert [(one.id, one.value) for one in found.claims if not one.holds] == []
    assert "2 replicas, each in 2 parts," in found.claimed("ddp_mean/losses").title


@pytest.mark.slow
def test_parts_that_count_masks_by_themselves_are_noticed(monkeypatch):
    """The twin: each part is divided by its own masks and classes."""
    from tf_impl.criterion import SetCriterion

    monkeypatch.setattr(SetCriterion, "divisors", lambda *args: None)
    found = executed_step(request(steps=1, per_replica=2, parts=2))
    failed = {one.id for one in found.claims if not one.holds}
    assert {"global/losses", "global/gradients", "ddp_mean/losses"} <= failed


def test_an_execution_is_drawn_and_verified(result, tmp_path):
    write_report([of_result(result.to_json())], tmp_path / "report")
    assert verify(tmp_path / "report").problems == ()
    text = (tmp_path / "report" / "report.md").read_text()
    assert "2 updates of 2 replicas, executed" in text
    assert "Products as a TPU makes them" in text


def test_products_of_one_pass_take_updates_further_from_float64(result):
    whole, one = result.rounded_products
    assert (whole.passes, one.passes) == (0, 1)
    assert [len(row.losses) for row in (whole, one)] == [2, 2]
    for exact, rounded in ((whole.losses[0], one.losses[0]), (whole.gradients, one.gradients)):
        assert 1e-9 < exact < 1e-4 < 1e-3 < rounded < 1.0


@pytest.mark.slow
def test_products_of_six_passes_are_those_of_float32():
    found = executed_step(request(steps=1, products=(1, 3, 6))).rounded_products
    whole, one, three, six = (row.losses[0] for row in found)
    assert six < 8 * whole < three < one / 8


def test_a_rule_that_is_said_to_hold_is_judged_again(result):
    content = json.loads(json.dumps(strict(result.to_json())))
    assert recheck(of_result(content)) == []
    content["rules"][0]["verdict"] = "fails"
    assert recheck(of_result(content))


@pytest.fixture(scope="module")
def planted():
    """What is said of every mistake, made in the program one at a time."""
    found = executed_step(request(steps=1, plant=True))
    return found, {one.id: one for one in found.wrong_reductions}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
def test_a_planted_mistake_is_noticed_and_named(planted, wrong):
    one = planted[1][wrong]
    assert one.found_by
    assert one.cause == WRONG[wrong].what


@pytest.mark.slow
def test_a_mistake_that_is_missed_fails_the_claim(planted):
    """And a name that was changed in a recording is noticed."""
    found, _ = planted
    assert found.claimed("wrong_reductions").holds
    content = json.loads(json.dumps(strict(found.to_json())))
    content["wrong_reductions"][0]["cause"] = "another"
    assert recheck(of_result(content))


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--config", "tiny", "--execute"], "--replicas is 1"),
        (["--config", "tiny", "--plant"], "--plant needs --execute"),
        (["--config", "tiny", "--products", "1"], "--products needs --execute"),
        (
            ["--config", "tiny", "--execute", "--replicas", "2", "--products", "2"],
            "products are asked for in 2 passes",
        ),
    ],
)
def test_wrong_words_of_an_execution_are_refused(words, fact):
    done = CliRunner().invoke(app, ["preflight", *words])
    assert isinstance(done.exception, InputError)
    assert fact in str(done.exception)


class Moved:
    """A side whose gradient is off by `error` per unit that it is moved by, and by `kink` where its
    seed lets another element through."""

    begun: ClassVar[list[tuple[int, int]]] = []

    def __init__(self, seed, units, error=1e-6, kink=0.0):
        self.begun.append((seed, units))
        self.gradient = np.ones(4) + error * units
        self.gradient[0] += kink * (seed == 7)
        self.steps = []

    def step(self, number):
        self.steps.append(number)
        assert self.steps == [0]  # no update more than is compared
        return {TOTAL: 1.0, NORM: 1.0}

    def gradients(self):
        return {"w": self.gradient}

    def weights(self):
        raise AssertionError("weights are not compared")


def exact_ones():
    ones = {"w": np.ones(4)}
    return Exact([{TOTAL: 1.0, NORM: 1.0}] * 5, ones, {0: ones, 4: ones})


def test_further_gradients_are_those_of_errors_at_their_limit():
    Moved.begun.clear()
    found = further_gradients(Moved, exact_ones())["w"]
    seeds, units = zip(*Moved.begun, strict=True)
    assert len({*seeds}) == MORE
    assert not {*seeds} & {*TWINS}
    assert {*units} == {PRECISION_FACTOR}
    assert found.max == pytest.approx(1e-6)  # of one unit: a limit is multiplied by the factor


@pytest.mark.parametrize(
    ("kink", "off", "verdict"),
    [(0.0, 3e-6, "holds"), (0.0, 0.1, "fails"), (0.1, 0.1, "holds"), (0.1, 0.3, "fails")],
)
def test_a_gradient_is_held_to_what_errors_within_the_limit_decide(kink, off, verdict):
    """An element that is off as far as in a further run holds; one that is further off fails."""
    exact = exact_ones()
    moved = np.ones(4)
    moved[0] += off
    replicas = SimpleNamespace(gradients=lambda: {"w": moved})
    own = measured_updates(Moved(0, 1), Exact(exact.numbers[:1], exact.gradients, {}))
    further = further_gradients(partial(Moved, kink=kink), exact)
    request = Request(zoo.get("tiny"), (64, 96))
    ranked = Ranked(exact, own, (own,))
    claim = execution._gradients_claim("global", replicas, ranked, request, further)
    assert claim.verdict == verdict
    without = execution._gradients_claim("global", replicas, ranked, request)
    assert without.verdict == ("holds" if off < 1e-5 else "fails")


@pytest.mark.parametrize(("losses", "asked"), [("hold", True), ("fail", False)])
def test_further_runs_are_made_where_losses_hold_alone(monkeypatch, losses, asked):
    claims = []

    def gradients(rule, found, ranked, request, further=None):
        claims.append(further)
        return SimpleNamespace(holds=further is not None)

    monkeypatch.setattr(
        execution, "_numbers_claim", lambda *_: SimpleNamespace(holds=losses == "hold")
    )
    monkeypatch.setattr(execution, "_gradients_claim", gradients)
    monkeypatch.setattr(execution, "_running_claims", lambda *_: [])
    monkeypatch.setattr(execution, "_equal_claim", lambda *_: SimpleNamespace(holds=True))
    monkeypatch.setattr(execution, "all_hold", lambda given: True)
    beside = SimpleNamespace(rule="global", ranked=None, further={"w": None})
    request = SimpleNamespace(command="")
    execution._judge(None, beside, None, request)
    assert claims == [None, {"w": None}][: 1 + asked]
