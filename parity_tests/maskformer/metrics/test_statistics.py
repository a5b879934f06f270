"""Intervals and tests over images: coverage and error rates by simulation, and determinism."""

import functools

import numpy as np
import pytest
from scipy.stats import binom

from maskformer.data.panoptic_format import Category
from maskformer.metrics.panoptic_quality import PanopticCounts
from maskformer.metrics.panoptic_quality import as_sample as panoptic_sample
from maskformer.metrics.panoptic_quality import score as panoptic_score
from maskformer.metrics.semantic_iou import SemanticCounts
from maskformer.metrics.semantic_iou import as_sample as semantic_sample
from maskformer.metrics.semantic_iou import score as semantic_score
from maskformer.metrics.statistics import Sample, bootstrap_interval, compare, judge_equivalence
from parity.errors import InputError

CLASSES = 6
CATEGORIES = {i: Category(i, f"c{i}", i < 4) for i in range(CLASSES)}
PRESENCE = np.array([0.9, 0.7, 0.5, 0.4, 0.8, 0.3])
SKILL = np.array([0.8, 0.6, 0.7, 0.5, 0.9, 0.4])


def draw(seed, images: int, noise_seed=None, skill: float = 1.0) -> PanopticCounts:
    """Counts of a population of images; one seed is one set of images, the noise is the model's."""
    generator = np.random.default_rng(seed)
    shape = (images, CLASSES)
    segments = generator.binomial(1, PRESENCE, shape) * (1 + generator.poisson(1.5, shape))
    ease = generator.beta(4, 2, (images, 1))
    if noise_seed is not None:
        generator = np.random.default_rng(noise_seed)
    tp = generator.binomial(segments, np.clip(skill * SKILL * ease * 1.3, 0, 1))
    iou = tp * np.clip(0.5 + 0.5 * generator.beta(5, 2, shape) * ease, 0.5, 1)
    return PanopticCounts(tp, generator.poisson(0.3 * PRESENCE, shape), segments - tp, iou)


@functools.cache
def population_value(skill: float = 1.0) -> float:
    """PQ that a model of this skill has on the population, to about 1e-4."""
    counts = PanopticCounts.zeros(CLASSES)
    for part in range(10):
        counts = counts + draw([99, part], 50_000, skill=skill).total()
    return panoptic_score(counts, CATEGORIES).groups["All"].pq


def sample(seed, images: int, **how) -> Sample:
    return panoptic_sample(draw(seed, images, **how), CATEGORIES)


def covered(datasets: int, images: int, resamples: int) -> tuple[int, int]:
    """How many 95 % intervals hold the population's PQ, and how many would if they were narrower.

    The second number is a planted fault: each side of the interval at 0.6 of its length.
    """
    inside, narrow = 0, 0
    for dataset in range(datasets):
        found = bootstrap_interval(sample([7, dataset], images), resamples=resamples, seed=dataset)
        away = population_value() - found.value
        below, above = found.low - found.value, found.high - found.value
        inside += below <= away <= above
        narrow += 0.6 * below <= away <= 0.6 * above
    return inside, narrow


def test_intervals_cover_the_population() -> None:
    datasets = 200
    least, most = binom.ppf([1e-4, 1 - 1e-4], datasets, 0.95)
    inside, narrow = covered(datasets, 150, 500)
    assert least <= inside <= most, f"covered are {inside}, but should be {least} to {most}"
    assert narrow < least, f"covered by narrow intervals are {narrow}, but should be below {least}"


@pytest.mark.slow
def test_intervals_cover_94_to_96_percent_of_2000_data_sets() -> None:
    share = covered(2000, 150, 2000)[0] / 2000
    assert 0.94 <= share <= 0.96, f"coverage is {share}, but should be 0.94 to 0.96"


PORT_SKILL = 0.9
"""Of simulated ports: worse than the reference by about 3.3 points of PQ on the population."""


def simulated(port: int, images: int = 150) -> tuple[Sample, Sample]:
    """A port and its reference on the same images, each with mistakes of its own."""
    return (
        sample([1, port], images, noise_seed=[3, port], skill=PORT_SKILL),
        sample([1, port], images, noise_seed=[2, port]),
    )


def differences(ports: int, resamples: int) -> tuple[int, int, int]:
    """Of simulated ports: how many 95 % intervals of the difference of PQ hold the population's,
    how many would at 0.6 of their length, and for how many equivalence is shown although the
    population's difference is the margin itself, so that every one is an error."""
    truth = population_value(PORT_SKILL) - population_value()
    inside = narrow = shown = 0
    for port in range(ports):
        pair = simulated(port)
        found = compare(*pair, resamples=resamples, seed=port).interval
        away = truth - found.value
        below, above = found.low - found.value, found.high - found.value
        inside += below <= away <= above
        narrow += 0.6 * below <= away <= 0.6 * above
        judged = judge_equivalence(*pair, margin=abs(truth), resamples=resamples, seed=port)
        shown += judged.holds
    return inside, narrow, shown


def test_intervals_of_differences_cover_and_equivalence_keeps_its_level() -> None:
    ports = 150
    inside, narrow, shown = differences(ports, 300)
    least, most = binom.ppf([1e-4, 1 - 1e-4], ports, 0.95)
    assert least <= inside <= most, f"covered are {inside}, but should be {least} to {most}"
    assert narrow < least, f"covered by narrow intervals are {narrow}, but should be below {least}"
    errors = binom.ppf(1 - 1e-4, ports, 0.05)
    assert shown <= errors, f"shown in error are {shown}, but should be at most {errors}"


@pytest.mark.slow
def test_2000_simulated_ports_are_covered_by_94_to_96_percent_of_intervals() -> None:
    ports = 2000
    inside, _, shown = differences(ports, 1000)
    assert 0.94 <= inside / ports <= 0.96, f"coverage is {inside / ports}, should be 0.94 to 0.96"
    assert shown / ports <= 0.05, f"equivalence is shown in error for {shown / ports}, limit 0.05"


def rejections(datasets: int, skill: float) -> int:
    found = 0
    for dataset in range(datasets):
        first = sample([1, dataset], 60, noise_seed=[2, dataset])
        second = sample([1, dataset], 60, noise_seed=[3, dataset], skill=skill)
        found += compare(first, second, resamples=300, seed=dataset).p_value <= 0.05
    return found


def test_the_paired_test_keeps_its_level_and_finds_differences() -> None:
    datasets = 150
    most = binom.ppf(1 - 1e-4, datasets, 0.05)
    false = rejections(datasets, 1.0)
    assert false <= most, f"false rejections are {false}, but should be at most {most}"
    true = rejections(40, 0.6)
    assert true >= 36, f"differences found are {true} of 40, but should be at least 36"


def test_equivalence_is_shown_only_for_close_models() -> None:
    counts = draw(0, 400, noise_seed=1)
    near, far = draw(0, 400, noise_seed=2), draw(0, 400, noise_seed=2, skill=0.6)
    first, second, third = (panoptic_sample(c, CATEGORIES) for c in (counts, near, far))
    close = judge_equivalence(first, second, margin=0.05)
    assert close.holds
    assert -0.05 < close.interval.low < close.interval.high < 0.05
    assert close.interval.confidence == pytest.approx(0.9)
    apart = judge_equivalence(first, third, margin=0.05)
    assert not apart.holds
    assert apart.interval.high > 0.05
    assert not judge_equivalence(first, second, margin=1e-4).holds
    turned = judge_equivalence(second, first, margin=0.05)
    assert turned.interval.low == pytest.approx(-close.interval.high, abs=1e-12)


def test_equivalence_keeps_its_level_at_the_margin() -> None:
    difference = 0.08
    shown = 0
    for dataset in range(150):
        base = np.random.default_rng([5, dataset]).normal(size=(60, 2))
        pair = [
            Sample(np.stack([base[:, i] + i * difference, np.ones(60)], axis=1), mean_of)
            for i in range(2)
        ]
        shown += judge_equivalence(*pair, margin=difference, resamples=300, seed=dataset).holds
    most = binom.ppf(1 - 1e-4, 150, 0.05)
    assert shown <= most, f"shown at the margin are {shown}, but should be at most {most}"


def mean_of(totals: np.ndarray) -> np.ndarray:
    return totals[..., 0] / totals[..., 1]


def test_a_mean_gets_the_textbook_interval() -> None:
    values = np.random.default_rng(4).normal(3, 2, 400)
    found = bootstrap_interval(
        Sample(np.stack([values, np.ones(400)], axis=1), mean_of), resamples=20_000
    )
    error = values.std(ddof=1) / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    # 20,000 resamples place each end within about 0.02 standard errors.
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_resamples_are_the_score_of_resampled_images() -> None:
    counts = draw(3, 40)
    chosen = np.random.default_rng(8).integers(0, 40, 40)
    weights = np.bincount(chosen, minlength=40).astype(float)
    built = panoptic_sample(counts, CATEGORIES, "Things")
    copies = PanopticCounts(*(getattr(counts, k)[chosen] for k in ("tp", "fp", "fn", "iou")))
    expected = panoptic_score(copies.total(), CATEGORIES).groups["Things"].pq
    assert built.metric(weights @ built.statistics) == pytest.approx(expected, abs=1e-12)
    assert built.value == pytest.approx(
        panoptic_score(counts.total(), CATEGORIES).groups["Things"].pq, abs=1e-12
    )


@pytest.mark.parametrize("definition", ["current", "2021"])
def test_semantic_samples_score_as_the_data_set(definition: str) -> None:
    generator = np.random.default_rng(0)
    right = generator.integers(0, 50, (30, 4))
    right[:, 2] = 0
    extra = generator.integers(0, 20, (2, 30, 4))
    extra[0, :, 2] = 0  # a class that is only predicted
    counts = SemanticCounts(right, right + extra[0], right + extra[1])
    built = semantic_sample(counts, definition)
    assert built.value == pytest.approx(semantic_score(counts.total(), definition).miou, abs=1e-12)
    found = bootstrap_interval(built, resamples=500)
    assert found.low < found.value < found.high


def test_equal_seeds_give_equal_intervals() -> None:
    built = sample(1, 50)
    assert bootstrap_interval(built, seed=5) == bootstrap_interval(built, seed=5)
    assert bootstrap_interval(built, seed=5) != bootstrap_interval(built, seed=6)


def test_equal_models_do_not_differ() -> None:
    built = sample(1, 50)
    found = compare(built, built, resamples=200)
    assert (found.interval.low, found.interval.high, found.p_value) == (0.0, 0.0, 1.0)
    assert judge_equivalence(built, built, margin=1e-9, resamples=200).holds


def test_what_cannot_be_estimated_is_refused() -> None:
    built, other = sample(1, 50), sample(1, 51)
    with pytest.raises(InputError, match="the first sample has 50 images, the second 51"):
        compare(built, other)
    with pytest.raises(InputError, match="at least two images"):
        sample(1, 1)
    for confidence in (0.0, 1.0, 95):
        with pytest.raises(InputError, match="the confidence is"):
            bootstrap_interval(built, confidence=confidence)
    with pytest.raises(InputError, match="resamples is 10"):
        bootstrap_interval(built, resamples=10)
    for margin in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="the margin is"):
            judge_equivalence(built, built, margin=margin)
    counts = PanopticCounts(*(np.zeros((3, CLASSES)) for _ in range(4)))
    counts.tp[0] = counts.iou[0] = 1
    with pytest.raises(InputError, match="resamples have no score"):
        bootstrap_interval(panoptic_sample(counts, CATEGORIES))
