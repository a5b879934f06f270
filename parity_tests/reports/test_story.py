"""What a report says first: one story, told by the page, its twin and `parity explain`."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import parity
from parity.claims import Place
from parity_tests.reports import recorded
from parity_tests.reports.page import Page
from parity_tests.reports.test_recordings import RECORDINGS
from parity_tests.reports.test_samples import SAMPLE
from reports.document import number
from reports.loading import load, of_result
from reports.render import render
from reports.story import story_of
from reports.verification.recheck import unfounded

MIXER = Path(__file__).parent / "mixer"
WORDS = {"holds", "fails", "equal", "different", "not decided", "not run"}
FOREIGN = re.compile(
    r"maskformer|coco|ade20k|panoptic|\bPQ\b|mIoU|quer(y|ies)|erratum|errata|\bzoo\b|\bTPU\b|"
    r"detectron|--config\b|backbone|pixel.decoder",
    re.I,
)


@pytest.fixture(scope="module")
def faults():
    return load([MIXER / "faults.json"])


@pytest.fixture(scope="module")
def files(faults):
    return render(faults)


def text_of(files):
    return " ".join(Page(files["report.html"]).text.split())


def test_the_first_sentence_says_where_and_why_and_how_many_more(faults):
    story = story_of(faults)
    assert story.verdict == "different"
    assert story.sentence == (
        "`blocks.0.norm1` computes another function: epsilon 0.001 instead of 1e-06. 2 more places."
    )


def test_each_place_has_cause_source_both_values_limit_and_next_step(faults):
    places = story_of(faults).places
    assert [one.where for one in places] == ["blocks.0.norm1", "blocks.1.channels", "model"]
    for one, told in zip(places, faults[0].result.localisations, strict=True):
        (worst, *_) = [each for each in told.verdicts if not each.passed]
        assert f"port {one.port}, reference {one.reference}" in worst.detail
        assert one.at in worst.detail
        assert one.limit
        assert f"`{faults[0].result.claims[0].command}`" in one.next
    sources = [one.source for one in places]
    assert [bool(re.fullmatch(r"pair\.py:\d+", text)) for text in sources] == [False, True, True]
    lines = (MIXER / "pair.py").read_text().splitlines()
    for one in places[1:]:
        assert lines[int(one.source.rpartition(":")[2]) - 1].strip() == one.code


def test_page_twin_data_and_explain_tell_the_same(files, faults, parity):
    story = story_of(faults)
    told = json.loads(files["report.json"])
    assert (told["verdict"], told["story"]["sentence"]) == (story.verdict, story.sentence)
    page, twin = text_of(files), files["report.md"].replace("\\", "")
    status, out, _ = parity("explain", MIXER / "faults.json")
    assert status == 1
    bare = story.sentence.replace("`", "")
    assert out.splitlines()[0] == bare
    assert bare in page
    assert bare in twin.replace("`", "")
    for place in story.places:
        for text in (place.where, place.cause, place.code, place.port, place.reference):
            assert text in page
            assert text in twin
            assert text in out
        assert place.next.replace("`", "") in page
        assert place.next.replace("`", "") in out
    for name, value in story.about:
        assert value in page, name
        assert value in twin, name


def test_the_head_says_what_was_compared(faults):
    about = dict(story_of(faults).about)
    assert about["reference"] == "Mixer (PyTorch)"
    assert about["port"] == "PortMixer (TensorFlow)"
    assert about["inputs"] == "0 2x3x24x32"
    assert about["weights"].startswith("sha256 ")
    assert "torch 2" in about["versions"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", about["date"])
    assert re.match(r"[0-9a-f]{12}", about["commit"])


def test_places_come_before_all_else_on_the_page(files):
    headings = re.findall(r"<h2[^>]*>([^<]+)</h2>", files["report.html"])
    assert headings[0] == "Where and why, and what to do"
    assert files["report.html"].index("blocks.1.channels") < files["report.html"].index("<nav")


def test_an_equal_pair_says_so_and_has_no_place():
    story = story_of(load([MIXER / "equal.json"]))
    assert (story.verdict, story.places, story.also) == ("equal", (), ())
    assert story.sentence.startswith("The port computes what the reference computes")


@pytest.mark.parametrize("name", ["faults", "equal"])
def test_the_page_of_another_pair_has_nothing_of_maskformer(name):
    files = render(load([MIXER / f"{name}.json"]))
    for text in (text_of(files), files["report.md"]):
        assert FOREIGN.findall(text) == []
    ladder = json.loads(files["report.json"])["ladder"]
    shown = re.findall(r'id="rung-(\w+)"', files["report.html"])
    assert shown == [one["rung"] for one in ladder if one["claims"]]


def test_the_page_of_maskformer_has_what_it_had():
    """The twin: those words are on the page of a configuration."""
    text = text_of(render([recorded.audit(), recorded.evaluation()]))
    assert len(FOREIGN.findall(text)) > 5
    assert "Known errata" in text


def test_no_backtick_is_printed_on_a_page(files):
    for one in (files, render(load([SAMPLE / "evidence"]))):
        page = re.sub(r"<(script|style)>.*?</\1>", "", one["report.html"], flags=re.S)
        assert "`" not in page
    assert "<code>return self.fc2(nn.functional.gelu(self.fc1(x)))</code>" in files["report.html"]


def test_every_verdict_of_a_page_is_one_of_few_words():
    for found in (load([SAMPLE / "evidence"]), load([RECORDINGS]), load([MIXER / "faults.json"])):
        badges = re.findall(r'<span class="badge[^>]*>([^<]*)<', render(found)["report.html"])
        assert badges
        assert set(badges) <= WORDS


def test_a_failing_training_step_names_its_place_with_both_values():
    result = recorded.training_step(2.6)
    failing = next(one for one in result["claims"] if one["verdict"] == "fails")
    place = Place.at("criterion", "loss_mask")
    failing |= {"place": place.text, "part": place.part, "inherited": False}
    failing["cause"] = "losses.py:12: `total / count`: a sum instead of a mean"
    story = story_of([of_result(result)])
    (one,) = story.places
    assert story.sentence == (
        "`criterion: loss_mask` differs: a sum instead of a mean (losses.py:12)."
    )
    assert (one.port, one.reference, one.code) == ("2.6", "2.5", "total / count")
    failing |= {"inherited": True}
    assert story_of([of_result(result)]).places == ()


def test_what_only_inherits_is_told_apart_on_the_map(faults):
    """Without runs of every module alone the places that were found tell own from inherited."""
    content = json.loads(faults[0].files[""])
    kept = [one for one in content["claims"] if one["id"] != "isolated_function"]
    page = render([content | {"claims": kept}])["report.html"]
    red, faint = (len(re.findall(f'class="cell {css}"', page)) for css in ("mbad", "mi"))
    paths = {one.path for one in faults[0].result.localisations}
    assert red == 2 * len(paths)  # on the narrow map and on the wide one
    assert faint > red
    content["localisations"] = []
    page = render([content | {"claims": kept}])["report.html"]
    assert 'class="cell mi"' not in page


def test_a_training_that_collapsed_decides_nothing_and_says_why():
    found = load([SAMPLE / "evidence"])
    files = render(found)
    (claim,) = (
        one
        for one in json.loads(files["report.json"])["claims"]
        if one["id"] == "metric_trained/scores"
    )
    assert claim["verdict"] == "not decided"
    for text in (text_of(files), files["report.md"].replace("\\", "")):
        assert "of all queries say no-object in the last batch" in text
        assert "collapsed: PyTorch" in text


@pytest.fixture(scope="module")
def trained():
    return load([MIXER / "training.json"])


def test_a_fault_of_training_is_the_first_thing_said(trained):
    story = story_of(trained)
    assert story.sentence == "`loss: class` differs: cross_entropy: a sum instead of a mean."
    assert len(story.places) == 1  # what the loss hands on is the same place
    assert FOREIGN.findall(text_of(render(trained))) == []


def test_the_training_of_a_pair_is_shown_tensor_by_tensor_and_step_by_step(trained):
    files = render(trained)
    tables = Page(files["report.html"]).tables
    (steps,) = (one for one in tables if one[0] == ["Gap", "Step", "Port", "The reference's twin"])
    claims = {one.id: one.measured for one in trained[0].result.claims}
    weights = claims["train_steps_weight_gap"]
    assert len(steps) == 1 + 2 * len(weights.port)
    assert steps[1][:3] == ["steps weight gap", "0", number(float(weights.port["0"]))]
    (each,) = (one for one in tables if one[0][:3] == ["What", "Tensor", "Verdict"])
    updates = [row for row in each if row[0] == "update"]
    assert len(updates) == len(claims["train_update"].cases)
    assert {row[2] for row in updates} == {"holds"}
    assert {row[2] for row in each if row[0] == "gradients"} == {"fails"}
    assert "weights, relative gap" in files["report.html"]


def test_a_pair_that_was_not_trained_has_no_chapter_of_training(files):
    """The twin."""
    assert "Losses, gradients and updates" not in files["report.html"]


class Doubled(nn.Module):
    def forward(self, x):
        return x * 2


class Both(Doubled):
    def forward(self, x):
        return x * 2, x.sum(1)


class OfSix(Doubled):
    def forward(self, x):
        if x.shape[-1] != 6:
            raise ValueError(f"expected six channels, but received {tuple(x.shape)}")
        return super().forward(x)


class Around(nn.Module):
    """Hands what it is given to one module, and returns its first result."""

    def __init__(self, inner):
        super().__init__()
        self.c = inner

    def forward(self, x):
        found = self.c(x)
        return found[0] if isinstance(found, tuple) else found


class Turned(Around):
    def forward(self, x):
        return self.c(x.transpose(1, 2)).transpose(1, 2)


def told_of(reference, port):
    x = np.random.default_rng(0).normal(size=(2, 7, 6)).astype(np.float32)
    names = parity.Names({"c": "c"})
    pair = parity.Pair(reference.eval(), lambda: Around(port), (x,), names=names)
    result = parity.audit(pair, executions=(), quiet=True)
    one = of_result(result.to_json())
    assert unfounded([one]) == []
    return story_of([one])


def test_a_declared_map_that_lacks_the_order_of_axes_says_what_to_declare():
    assert told_of(Turned(Doubled()), OfSix()).sentence == (
        "`c` has the first tensor above its limit: `c:input` has shape (2, 7, 6) instead of "
        "(2, 6, 7). If only its axes are in another order, declare a `View` of it, or have it "
        "found: `Names(..., complete=False)`."
    )


def test_a_result_that_one_side_lacks_is_named_and_a_batch_is_no_stack():
    """The batch of two images has as many rows as the other module has results."""
    told = told_of(Around(Both()), Doubled())
    assert told.places[0].line == (
        "`c` computes another function: `c:output.0` is not returned; no cause is known."
    )
    assert any("has its counterpart" in text for text in told.also)


class Further(Around):
    def forward(self, x):
        return super().forward(x) * 1.5


def test_a_difference_of_the_whole_model_is_believed():
    """It begins at the root, which has no path, and is found in the recording again."""
    told = told_of(Further(Doubled()), Doubled())
    assert told.places[0].where == "model"
