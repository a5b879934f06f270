"""Draws: distributions of the original's augmentations; index maps equal to both resizes."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from maskformer.data.augmentation import (
    COCO_CROP_SHORT_SIDES,
    Color,
    Crop,
    Flip,
    Pad,
    Resize,
    draw,
    draw_color,
    draw_crop,
    drawn_shape,
    epoch_order,
    evaluation_steps,
    example_at,
    example_generator,
    nearest_index,
    output_shape,
    resized_shape,
    source_indices,
)
from maskformer.data.mapper import apply_to_labels
from maskformer.model.inputs import CropConfig, InputConfig
from parity.errors import InputError
from parity_tests.maskformer.data.inputs_for_tests import ADE20K, COCO

DRAWS = 10_000
SURE = 1e-4  # a right distribution fails one such test in ten thousand; seeds are fixed


def _is_uniform(counts: Counter, values: list) -> bool:
    if set(counts) - set(values):
        return False
    observed = [counts.get(value, 0) for value in values]
    return stats.chisquare(observed).pvalue > SURE


def _coco_draws() -> list[tuple]:
    rng = np.random.default_rng(0)
    return [draw(COCO, rng, 480, 640) for _ in range(DRAWS)]


def test_coco_draws_have_the_original_distribution() -> None:
    draws = _coco_draws()
    flips = Counter(any(isinstance(s, Flip) for s in steps) for steps in draws)
    crops = Counter(any(isinstance(s, Crop) for s in steps) for steps in draws)
    assert _is_uniform(flips, [True, False])
    assert _is_uniform(crops, [True, False])
    plain = Counter(min(s[-1].height, s[-1].width) for s in draws if not _cropped(s))
    assert _is_uniform(plain, list(COCO.min_sizes_train))
    first = Counter(_resizes(s)[0].height for s in draws if _cropped(s))
    assert _is_uniform(first, list(COCO_CROP_SHORT_SIDES))


def test_coco_crops_reach_both_bounds_and_stay_inside() -> None:
    heights: Counter = Counter()
    for steps in _coco_draws():
        if not _cropped(steps):
            continue
        first, crop = _resizes(steps)[0], next(s for s in steps if isinstance(s, Crop))
        assert crop.top >= 0
        assert crop.top + crop.height <= first.height
        assert crop.left + crop.width <= first.width
        if first.height == 600:
            heights[crop.height] += 1
    assert (min(heights), max(heights)) == (384, 600), "the range includes both ends"
    binned = Counter((h - 384) // 31 for h in heights.elements())
    assert _is_uniform(binned, list(range(7)))


def test_crop_exclusive_bound_would_be_noticed() -> None:
    rng = np.random.default_rng(0)
    inclusive = Counter(
        draw_crop(CropConfig("absolute_range", (3, 5)), rng, 9, 9).height for _ in range(500)
    )
    assert _is_uniform(inclusive, [3, 4, 5])
    assert not _is_uniform(Counter(rng.integers(3, 5, 500).tolist()), [3, 4, 5])


def test_crop_places_are_uniform() -> None:
    rng = np.random.default_rng(1)
    crops = [draw_crop(CropConfig("absolute", (6, 9)), rng, 10, 14) for _ in range(DRAWS)]
    places = Counter((crop.top, crop.left) for crop in crops)
    assert _is_uniform(places, [(y, x) for y in range(5) for x in range(6)])


def test_color_draws_have_the_original_distribution() -> None:
    rng = np.random.default_rng(2)
    colors = [draw_color(rng) for _ in range(DRAWS)]
    for name, low, high in (
        ("brightness", -32, 32),
        ("contrast", 0.5, 1.5),
        ("saturation", 0.5, 1.5),
    ):
        values = [getattr(c, name) for c in colors]
        assert _is_uniform(Counter(v is None for v in values), [True, False])
        given_values = [v for v in values if v is not None]
        assert stats.kstest(given_values, "uniform", args=(low, high - low)).pvalue > SURE
    assert _is_uniform(Counter(c.contrast_first for c in colors), [True, False])
    hues = Counter(c.hue for c in colors if c.hue is not None)
    assert _is_uniform(hues, list(range(-18, 19)))


def test_semantic_draws_are_resize_crop_color_flip_pad() -> None:
    rng = np.random.default_rng(3)
    draws = [draw(ADE20K, rng, 300, 400) for _ in range(DRAWS)]
    shorts = Counter(steps[0].height for steps in draws)
    assert _is_uniform(shorts, list(ADE20K.min_sizes_train))
    assert _is_uniform(Counter(any(isinstance(s, Flip) for s in d) for d in draws), [True, False])
    for steps in draws[:200]:
        kinds = [type(s) for s in steps if not isinstance(s, Flip)]
        small = steps[0].height < 512
        assert kinds == [Resize, Crop, Color] + [Pad] * small


def test_limited_crop_avoids_a_dominating_category() -> None:
    config = InputConfig("mask_former_semantic", (40,), 400, CropConfig("absolute", (20, 20), 0.75))
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 45:] = 1
    free = InputConfig("mask_former_semantic", (40,), 400, CropConfig("absolute", (20, 20)))

    def share(config: InputConfig) -> float:
        rng = np.random.default_rng(0)
        dominated = 0
        for _ in range(500):
            crop = draw(config, rng, 40, 60, labels)[1]
            window = labels[:, crop.left : crop.left + 20]
            dominated += max((window == 0).mean(), (window == 1).mean()) >= 0.75
        return dominated / 500

    # A place is good with probability p; ten attempts fail with (1 - p)^10, one with 1 - p.
    bad = share(free)
    assert bad > 0.5
    assert share(config) < bad**10 + 0.05


def test_ignored_labels_do_not_count_in_a_limited_crop() -> None:
    crop = CropConfig("absolute", (20, 20), 0.75)
    config = InputConfig("mask_former_semantic", (20,), 400, crop)
    labels = np.full((20, 20), 255, np.uint8)
    labels[0, :4], labels[1, :4] = 0, 1
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    draw(config, rng, 20, 20, labels)
    once = np.random.default_rng(0)
    once.bit_generator.state = before
    draw(
        InputConfig("mask_former_semantic", (20,), 400, CropConfig("absolute", (20, 20))),
        once,
        20,
        20,
    )
    assert rng.random() == once.random(), (
        "the first crop is accepted: 50 % and 50 % of the labelled"
    )


@pytest.mark.parametrize("area", [0.5, 1.0])
def test_the_shape_is_known_without_labels(area: float) -> None:
    crop = CropConfig("absolute", (30, 30), area)
    config = InputConfig("mask_former_semantic", (20, 40, 60), 70, crop)
    labels = np.zeros((40, 60), np.uint8)
    for seed in range(50):
        wanted = output_shape(draw(config, np.random.default_rng(seed), 40, 60, labels), 40, 60)
        assert drawn_shape(config, np.random.default_rng(seed), 40, 60) == wanted
    with pytest.raises(InputError, match="must not depend on its labels"):
        CropConfig("absolute_range", (20, 30), 0.5)


@pytest.mark.parametrize(
    ("height", "width", "short", "longest", "wanted"),
    [
        (480, 640, 800, 1333, (800, 1067)),
        (427, 640, 800, 1333, (800, 1199)),
        (360, 640, 800, 1333, (750, 1333)),
        (640, 360, 800, 1333, (1333, 750)),
        (333, 333, 512, 2048, (512, 512)),
        (427, 640, 61, 2048, (61, 91)),
    ],
)
def test_resized_shape_rounds_half_up(
    height: int, width: int, short: int, longest: int, wanted: tuple[int, int]
) -> None:
    assert resized_shape(height, width, short, longest) == wanted


def test_evaluation_resizes_only() -> None:
    assert evaluation_steps(COCO, 480, 640) == (Resize(800, 1067),)


sizes = st.integers(1, 700)


@given(size_in=sizes, size_out=sizes)
def test_pillow_index_equals_pillow(size_in: int, size_out: int) -> None:
    source = Image.fromarray(np.arange(size_in, dtype=np.int32)[None])
    wanted = np.asarray(source.resize((size_out, 1), Image.Resampling.NEAREST))[0]
    assert (nearest_index(size_in, size_out, "pillow") == wanted).all()


@given(size_in=sizes, size_out=sizes)
def test_torch_index_equals_torch(size_in: int, size_out: int) -> None:
    torch = pytest.importorskip("torch")
    source = torch.arange(size_in, dtype=torch.float64)[None, None, None].expand(1, 1, 3, size_in)
    wanted = torch.nn.functional.interpolate(source, size=(129, size_out), mode="nearest")
    assert (nearest_index(size_in, size_out, "torch") == wanted[0, 0, 0].numpy()).all()


def test_the_two_rules_differ() -> None:
    assert (nearest_index(100, 50, "pillow") != nearest_index(100, 50, "torch")).all()


@given(seed=st.integers(0, 1000))
def test_source_indices_equal_step_by_step_application(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 9, (31, 47), dtype=np.uint8)
    steps = (Flip(), Resize(40, 60), Crop(3, 5, 30, 41), Resize(45, 62), Pad(64, 64))
    wanted = np.asarray(
        Image.fromarray(labels[:, ::-1].copy()).resize((60, 40), Image.Resampling.NEAREST)
    )
    wanted = wanted[3:33, 5:46]
    wanted = np.asarray(Image.fromarray(wanted).resize((62, 45), Image.Resampling.NEAREST))
    wanted = np.pad(wanted, ((0, 19), (0, 2)), constant_values=77)
    found = apply_to_labels(labels, *source_indices(steps, 31, 47, "pillow"), 77)
    assert (found == wanted).all()


def test_an_epoch_visits_every_image_once_and_differs_from_the_next() -> None:
    first, second = epoch_order(5, 0, 50), epoch_order(5, 1, 50)
    assert sorted(first) == sorted(second) == list(range(50))
    assert (first != second).any()
    assert [example_at(5, p, 50) for p in (49, 50)] == [(0, first[49]), (1, second[0])]


def test_draws_depend_on_seed_epoch_and_index_only() -> None:
    reference = draw(COCO, example_generator(1, 2, 3), 480, 640)
    assert draw(COCO, example_generator(1, 2, 3), 480, 640) == reference
    others = [(0, 2, 3), (1, 0, 3), (1, 2, 0)]
    assert all(draw(COCO, example_generator(*o), 480, 640) != reference for o in others)


def _cropped(steps: tuple) -> bool:
    return any(isinstance(step, Crop) for step in steps)


def _resizes(steps: tuple) -> list[Resize]:
    return [step for step in steps if isinstance(step, Resize)]
