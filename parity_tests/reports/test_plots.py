"""A plot shows every point, at the right side of its limit, inside its frame."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.drawing.plots import LETTER, Point, layer_plot, stage_class

SIZES = [(360, 300), (1080, 380)]

values = st.one_of(
    st.just(0.0), st.just(math.nan), st.just(math.inf), st.floats(min_value=1e-20, max_value=1e6)
)
stages = st.sampled_from(["input", "backbone", "pixel_decoder", "transformer", "unknown <stage>"])
points_strategy = st.lists(
    st.builds(Point, st.text(max_size=8), stages, values, st.floats(1e-18, 1e3), st.booleans()),
    min_size=1,
    max_size=40,
)


def draw(points, size=SIZES[1]):
    # XML knows no control characters; the page is HTML, so only the parser here minds them.
    svg = re.sub(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]",
        "",
        str(layer_plot(points, "gap", "a description", *size)),
    )
    (group,) = ElementTree.fromstring(svg)
    return group


def marks(svg):
    """(x, y, passed) of every point, in order."""
    found = []
    for element in svg:
        if element.tag == "circle":
            found.append((float(element.get("cx")), float(element.get("cy")), True))
        elif element.get("class") == "fail":
            x, y = re.match(r"M([\d.-]+) ([\d.-]+)l8 8", element.get("d")).groups()
            found.append((float(x) + 4, float(y) + 4, False))
    return found


@given(points_strategy, st.sampled_from(SIZES))
def test_every_point_is_drawn_inside_the_frame(points, size):
    found = marks(draw(points, size))
    assert [passed for *_, passed in found] == [point.passed for point in points]
    assert all(0 < x < size[0] and 0 < y < size[1] for x, y, _ in found)
    assert [x for x, *_ in found] == sorted(x for x, *_ in found)


@given(points_strategy, st.sampled_from(SIZES))
def test_labels_stay_inside_the_frame(points, size):
    for text in draw(points, size).iter("text"):
        x, width = float(text.get("x")), len(text.text) * LETTER
        left = x - width * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor", "start")]
        assert left >= 0, f"{text.text!r} begins at {left}, but should begin inside [{size}]"
        assert left + width <= size[0], f"{text.text!r} ends outside [{size}]"
        assert 10 <= float(text.get("y")) <= size[1]


@pytest.mark.parametrize("size", SIZES)
def test_larger_values_are_higher_and_a_value_on_its_limit_touches_the_line(size):
    points = [Point(f"l{i}", "heads", 10.0**-i, 1e-8, i >= 8) for i in range(4, 16)]
    svg = draw(points, size)
    heights = [y for _, y, _ in marks(svg)]
    assert heights == sorted(heights)
    line = next(element for element in svg if element.get("class") == "limit")
    limit_y = float(re.match(r"M[\d.]+ ([\d.]+)H", line.get("d")).group(1))
    assert heights[4] == pytest.approx(limit_y, abs=0.1)
    assert all(
        (y >= limit_y - 0.1) == point.passed for y, point in zip(heights, points, strict=True)
    )


def test_each_point_is_drawn_against_its_own_limit():
    """Tensors at the same share of their limits stand at one height, below or above one line."""
    points = [
        Point("a", "heads", 5e-15, 1e-14, True),
        Point("b", "heads", 5e-3, 1e-2, True),
        Point("c", "heads", 2e-14, 1e-14, False),
        Point("d", "heads", 1.0, 0.0, False),
    ]
    svg = draw(points)
    (_, first, _), (_, second, _), (_, above, _), (_, none, _) = marks(svg)
    (line,) = (one for one in svg if one.get("class") == "limit")
    at = float(re.fullmatch(r"M[\d.]+ ([\d.]+)H[\d.]+", line.get("d")).group(1))
    assert first == pytest.approx(second, abs=0.05)
    assert none < above < at < first


def test_zero_has_its_own_row_below_the_scale():
    points = [Point("a", "heads", 0.0, 1e-12, True), Point("b", "heads", 1e-16, 1e-12, True)]
    svg = draw(points)
    (_, zero, _), (_, small, _) = marks(svg)
    assert zero > small
    assert "0" in [text.text for text in svg.iter("text")]


def test_hostile_labels_are_escaped():
    svg = str(layer_plot([Point("</svg><script>", "a<b", 1.0, 2.0, True)], "t", '"<>', 360, 300))
    assert "<script>" not in svg
    assert 'aria-label="&#34;&lt;&gt;"' in svg


def test_stages_have_distinct_classes():
    assert stage_class("input") != stage_class("metric")
    assert stage_class("other") == stage_class("outputs") == "sx"
    assert stage_class("blocks") == stage_class("blocks") != stage_class("stem")
