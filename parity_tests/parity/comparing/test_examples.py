"""Two input pipelines: what differs is counted, named and drawn."""

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import parity
from parity.comparing.pictures import png
from parity.errors import InputError
from parity.records import json_text


def examples(count: int = 5, **changes: Callable[[Any], Any]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    found = []
    for index in range(count):
        one = {
            "image": rng.integers(0, 256, (40, 32, 3)).astype(np.uint8),
            "normalised": rng.normal(size=(3, 40, 32)).astype(np.float32),
            "labels": rng.integers(0, 5, (40, 32)).astype(np.int32),
            "masks": rng.random((2, 40, 32)) > 0.5,
            "info": {"id": index, "name": f"image {index}"},
        }
        found.append({key: changes.get(key, lambda x: x)(value) for key, value in one.items()})
    return found


def moved(low: int, high: int) -> Callable[[np.ndarray], np.ndarray]:
    """Pixels moved by levels between `low` and `high` at random."""
    rng = np.random.default_rng(2)

    def change(image: np.ndarray) -> np.ndarray:
        levels = rng.integers(low, high + 1, image.shape)
        return np.clip(image.astype(int) + levels, 0, 255).astype(np.uint8)

    return change


def compared(port: list, **settings: Any) -> Any:
    return parity.compare_examples(examples(), port, **settings)


def failing(result: Any) -> list[str]:
    return [one.id for one in result.failing]


def test_the_same_examples_are_equal():
    result = compared(examples())
    assert (result.verdict, result.count, result.picture) == ("equal", 5, "")
    assert [(one.key, one.kind) for one in result.fields] == [
        ("image", "pixels"),
        ("normalised", "numbers"),
        ("labels", "classes"),
        ("masks", "masks"),
        ("info.id", "classes"),
        ("info.name", "classes"),
    ]


STEPS = np.array([1, 2, 3], np.float32)[:, None, None]


@pytest.mark.parametrize(
    ("changes", "claim", "cause"),
    [
        ({"image": lambda a: a[..., ::-1]}, "pixels", "its channels are in reverse order"),
        ({"image": lambda a: a[:, ::-1]}, "pixels", "its entries along axis 1 are in reverse"),
        ({"image": lambda a: np.roll(a, 1, 0)}, "pixels", "along axis 0 are rolled by 1"),
        ({"normalised": lambda a: a * 2}, "numbers", "it is the reference's times 2"),
        (
            {"normalised": lambda a: a * STEPS + np.float32(0.5)},
            "numbers",
            "its channels are the reference's times 1 plus 0.5; times 2 plus 0.5",
        ),
        (
            {"labels": lambda a: np.where(a == 3, 255, a).astype("i4")},
            "classes",
            "class 3 becomes 255",
        ),
        ({"labels": lambda a: a + 1}, "classes", "it is the reference's plus 1"),
        ({"masks": lambda a: a[::-1]}, "masks", "along axis 0 are in reverse order"),
    ],
    ids=["bgr", "flipped", "shifted", "scaled", "normalised", "ignored", "off by one", "order"],
)
def test_a_mistake_is_named_and_drawn(changes, claim, cause):
    result = compared(examples(**changes))
    assert failing(result) == [claim]
    assert cause in result.claimed(claim).cause
    (key,) = changes
    assert result.first == f"example 0, {key}"
    assert result.claimed(claim).place.text.startswith(f"{key}, example 0 at [")
    picture = Image.open(io.BytesIO(base64.b64decode(result.picture)))
    assert picture.size == (3 * 32 + 2 * 4, 40)


def test_a_level_hides_no_bias():
    strict = compared(examples(image=moved(-1, 1)))
    assert failing(strict) == ["pixels"]
    allowed = {"levels": {"image": 1}}
    assert failing(compared(examples(image=moved(-1, 1)), **allowed)) == []
    biased = compared(examples(image=moved(0, 1)), **allowed)
    assert failing(biased) == ["bias"]
    assert biased.claimed("bias").place.text.startswith("image: +0.49")
    assert biased.fields[0].mean == pytest.approx(0.5, abs=0.01)


@given(st.permutations(range(5)))
def test_another_order_hides_nothing_else(order):
    port = examples()
    port[3]["labels"] = port[3]["labels"] + 1
    result = compared([port[index] for index in order])
    expected = ["order", "classes"] if list(order) != sorted(order) else ["classes"]
    assert failing(result) == expected
    assert result.first == "example 3, labels"


@pytest.mark.parametrize(
    ("port", "claim", "text"),
    [
        (examples(4), "count", "4 examples instead of 5"),
        (
            [{**one, "image": one["image"].transpose(2, 0, 1)} for one in examples()],
            "sizes",
            "image is [3, 40, 32] instead of [40, 32, 3], its axes in the order 2, 0, 1",
        ),
        (
            [{**one, "labels": one["labels"][:30]} for one in examples()],
            "sizes",
            "labels is [30, 32] instead of [40, 32], the same where both have numbers",
        ),
        (
            [{**one, "labels": one["labels"].astype(np.int64)} for one in examples()],
            "dtypes",
            "labels is int64 instead of int32",
        ),
        (
            [{key: one[key] for key in one if key != "masks"} for one in examples()],
            "keys",
            "masks is lacking in the port",
        ),
    ],
    ids=["count", "axes", "cut", "dtype", "key"],
)
def test_what_is_no_value_has_a_claim_of_its_own(port, claim, text):
    result = compared(port)
    assert claim in failing(result)
    assert text in result.claimed(claim).place.text


def test_only_so_many_are_taken_of_an_endless_pipeline():
    def endless():
        while True:
            yield {"x": np.zeros(2)}

    assert parity.compare_examples(endless(), endless(), limit=3).count == 3


def test_rounding_of_numbers_is_no_difference():
    def rounded(array: np.ndarray) -> np.ndarray:
        return np.nextafter(array, np.float32(10))

    assert compared(examples(normalised=rounded)).verdict == "equal"
    assert failing(compared(examples(normalised=lambda a: a + np.float32(1e-5)))) == ["numbers"]


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (lambda: compared([]), "the port gives no example"),
        (lambda: compared([1]), "gives a int, which is no mapping"),
        (lambda: compared(examples(), levels={"picture": 1}), "`picture` is no array"),
    ],
)
def test_what_cannot_be_compared_is_refused(action, text):
    with pytest.raises(InputError) as caught:
        action()
    assert text in str(caught.value)


def test_a_png_shows_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)


def test_a_result_is_read_back():
    text = json_text(compared(examples(image=lambda a: a[..., ::-1])).to_json())
    again = parity.comparing.examples.ExamplesResult.from_json(json.loads(text))
    assert json_text(again.to_json()) == text
