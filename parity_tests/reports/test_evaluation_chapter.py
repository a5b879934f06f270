"""An evaluation's page: every recorded score is there, for people, in Markdown and as drawn."""

import copy
import html
import json
import re
from typing import Any

import pytest

from parity.errors import InputError
from parity_tests.reports.page import HOSTILE, LADDER_ROWS, Page, assert_rectangular, hostile
from parity_tests.reports.results import evaluation_result as result
from reports.render import render


def one_side() -> dict[str, Any]:
    """The reference alone, with a semantic config."""
    alone = copy.deepcopy(result("evaluated"))
    del alone["comparison"], alone["sides"]["tf"], alone["pictures"]
    torch = alone["sides"]["torch"]
    del torch["panoptic"]
    torch["intervals"] = {"mIoU": torch["intervals"]["mIoU"]}
    for row in torch["per_class"]:
        for key in ("pq", "sq", "rq"):
            del row[key]
    return alone


def table(page: Page, first: str) -> list[list[str]]:
    (found,) = (table for table in page.tables if table[0][0] == first)
    return found


def test_every_score_is_in_the_table_with_its_interval() -> None:
    page = Page(render([result()])["report.html"])
    scores = next(t for t in page.tables if t[0][:2] == ["Score", "torch"])
    rows = {row[0]: row[1:] for row in scores[1:]}
    assert rows["PQ All"] == ["41.00", "38.00 to 44.00", "41.02", "38.00 to 44.00"]
    assert rows["PQ Stuff"] == ["47.00", "", "47.02", ""]
    assert rows["mIoU"][:2] == ["55.00", "52.00 to 58.00"]
    assert "torch, PQ Stuff: no interval, only 1 image has stuff." in page.text


def test_every_class_is_in_the_table() -> None:
    page = Page(render([result()])["report.html"])
    rows = table(page, "Class")
    assert [row[:2] for row in rows[1:]] == [
        ["person", "thing"], ["car", "thing"], ["sky", "stuff"],
    ]  # fmt: skip
    assert rows[1][2] == "30.00"
    assert rows[3][2] == "", "a class that does not occur has no PQ"


def test_the_comparison_is_told_in_points() -> None:
    page = Page(render([result()])["report.html"])
    compared = next(t for t in page.tables if t[0][:2] == ["Score", "Difference"])
    rows = {row[0]: row[1:] for row in compared[1:]}
    assert rows["PQ All"][:2] == ["+0.020", "-0.040 to +0.070"]
    assert rows["PQ All"][3] == "shown within 0.1 points (p 3.0e-3)"
    assert rows["PQ Stuff"][1] == "none: only 1 image"
    assert rows["mIoU"][3] == "not testable: too few images"
    assert "99.980 %" in page.text
    assert ["139", "2", "1", "0", "0"] in table(page, "Image")


@pytest.mark.parametrize("verdict", ["equal", "different", "evaluated"])
def test_the_verdict_leads(verdict: str) -> None:
    files = render([one_side() if verdict == "evaluated" else result(verdict)])
    (found,) = json.loads(files["report.json"])["chapters"]
    assert found["verdict"] == {"evaluated": "not decided"}.get(verdict, verdict)
    assert found["title"] == "Evaluation of coco_r50 on val2017"
    tones = {"equal": "good", "different": "bad", "evaluated": "open"}
    chapter = re.search('<details class="chapter".*?</summary>', files["report.html"], re.S).group()
    assert f'<span class="verdict {tones[verdict]}">' in chapter
    if verdict == "different":
        assert "2 pixels differ by more than rounding explains" in found["headline"]


def test_random_weights_are_said_to_be_random() -> None:
    page = Page(render([result() | {"weights": "seeded:0"}])["report.html"])
    assert "The weights are random numbers" in page.text
    assert "equal scores show little" in page.text
    assert "random" not in Page(render([result()])["report.html"]).text


def test_one_side_alone_has_no_comparison() -> None:
    page = Page(render([one_side()])["report.html"])
    assert "The two sides compared" not in page.text
    assert not any(row[0].startswith("PQ") for rows in page.tables for row in rows)
    assert "None were drawn." in page.text


def test_dots_lie_on_their_lines_and_the_drawing_says_what_it_shows() -> None:
    text = render([result()])["report.html"]
    drawings = re.findall(r'<svg class="plot"[^>]*aria-label="Scores\..*?</svg>', text)
    assert len(drawings) == 2, "one for a phone, one for wider screens"
    for drawing in drawings:
        lines = re.findall(r'd="M([\d.]+) ([\d.]+)H([\d.]+)', drawing)
        dots = re.findall(r'<circle class="s0" cx="([\d.]+)" cy="([\d.]+)"', drawing)
        assert len(lines) == len(dots) == 6, "three scores of two sides have intervals"
        for (low, y, high), (x, at) in zip(lines, dots, strict=True):
            assert y == at
            assert 100 < float(low) < float(x) < float(high) < 760
        spoken = html.unescape(re.search('aria-label="(.*?)"', drawing).group(1))
        assert "PQ All, torch 41.00, 38.00 to 44.00" in spoken


def test_markdown_has_the_same_rows() -> None:
    files = render([result()])
    rows = [row for found in Page(files["report.html"]).tables for row in found]
    lines = [line for line in files["report.md"].splitlines() if line.startswith("| ")]
    drawn = [line for line in lines if not re.fullmatch(r"[|\s:-]+", line)]
    assert len(rows) + LADDER_ROWS == len(drawn)
    assert_rectangular(files["report.md"])


def test_hostile_names_are_shown_not_run() -> None:
    changed = hostile(result()) | {"weights": "model.pkl"}
    changed["command"] = HOSTILE
    page = Page(render([changed])["report.html"])
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert not any(name.startswith("on") for name, _ in page.attributes)


@pytest.mark.parametrize("lost", ["sides", "images", "versions", "test_size"])
def test_an_incomplete_evaluation_is_refused(lost: str) -> None:
    broken = result()
    del broken[lost]
    with pytest.raises(InputError, match=lost):
        render([broken])
