"""Losses and their gradients equal the original's stored ones, and each other in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)
from maskformer.model.config import LossConfig, ModelConfig
from parity_tests.golden_files import load, unpack_masks
from tf_impl import criterion as tf_criterion
from tf_impl import matcher as tf_matcher
from torch_reference import criterion as torch_criterion

tf = pytest.importorskip("tensorflow")

ARRAYS, TEXTS = load("golden_criterion")
CASES = TEXTS["info"]
IDS = [f"{case['case']}-{case['kind']}" for case in CASES]


def _config(classes, weights, no_object):
    loss = LossConfig(weights["loss_ce"], weights["loss_mask"], weights["loss_dice"], no_object)
    return ModelConfig(name="losses", num_classes=classes, loss=loss)


def _outputs(logits, masks):
    """Layer L-1 is the final output."""
    layers = [{"pred_logits": a, "pred_masks": b} for a, b in zip(logits, masks, strict=True)]
    return {**layers[-1], "aux_outputs": layers[:-1]}


def _unstack(stacked):
    return [stacked[layer] for layer in range(stacked.shape[0])]


def _torch_run(config, logits, masks, targets, dtype):
    """Losses, weighted total and gradients with respect to logits and masks, as numpy."""
    inputs = [torch.tensor(x.astype(dtype), requires_grad=True) for x in (logits, masks)]
    criterion = torch_criterion.SetCriterion(config).to(inputs[0].dtype)
    losses = criterion(
        _outputs(*map(_unstack, inputs)),
        [{name: torch.tensor(value) for name, value in target.items()} for target in targets],
    )
    total = torch_criterion.weighted_total(losses, config.loss)
    total.backward()
    return (
        {name: float(value.detach()) for name, value in losses.items()},
        float(total.detach()),
        [x.grad.numpy() for x in inputs],
    )


def _tf_run(config, logits, masks, targets, dtype, overlapping=True, compiled=False, pad=2):
    padded = tf_matcher.pad_targets(
        targets, max(len(target["labels"]) for target in targets) + pad, overlapping
    )
    criterion = tf_criterion.SetCriterion(config, dtype=dtype)

    @tf.function(jit_compile=compiled)
    def run(logits, masks):
        with tf.GradientTape() as tape:
            tape.watch((logits, masks))
            losses = criterion(_outputs(_unstack(logits), _unstack(masks)), padded)
            total = tf_criterion.weighted_total(losses, config.loss)
        return losses, total, tape.gradient(total, [logits, masks], unconnected_gradients="zero")

    losses, total, gradients = run(*(tf.constant(x.astype(dtype)) for x in (logits, masks)))
    return (
        {name: float(value) for name, value in losses.items()},
        float(total),
        [gradient.numpy() for gradient in gradients],
    )


RUNS = {"torch": _torch_run, "tf": _tf_run}


def _case(case):
    key = f"c{case['case']}"
    targets = [
        {"labels": ARRAYS[f"{key}_labels_{b}"], "masks": unpack_masks(ARRAYS, f"{key}_masks_{b}")}
        for b in range(len(case["T"]))
    ]
    config = _config(case["K"], case["weight_dict"], case["eos"])
    return config, ARRAYS[f"{key}_logits"], ARRAYS[f"{key}_masks"], targets


def _relative(actual, expected):
    scale = np.linalg.norm(expected)
    return (
        float(np.linalg.norm(actual - expected) / scale) if scale else float(np.abs(actual).max())
    )


def _errors(case, side):
    """Each error over its limit: float32 against float64, limit 4 x the original's own error.

    The original's own error is that of the stored value, at least 8 float32 ulp: the stored values
    are sums over thousands of pixels and may be right by luck.
    """
    config, logits, masks, targets = _case(case)
    losses, total, gradients = _torch_run(config, logits, masks, targets, "float64")
    ours = RUNS[side](config, logits, masks, targets, "float32")
    floor = 8 * np.finfo(np.float32).eps
    errors = {}
    for name in case["losses"].keys() | ours[0].keys():
        if name not in ours[0] or name not in case["losses"]:
            errors[name] = float("inf")
            continue
        stored, exact = case["losses"][name], losses[name]
        limit = 4 * max(abs(stored - exact), floor * abs(stored))
        gap = abs(ours[0][name] - exact)
        errors[name] = gap / limit if limit else gap
    limit = 4 * max(abs(case["total"] - total), floor * abs(case["total"]))
    errors["total"] = abs(ours[1] - total) / limit
    for i, name in enumerate(("grad_logits", "grad_masks")):
        own = _relative(ARRAYS[f"c{case['case']}_{name}"], gradients[i])
        errors[name] = _relative(ours[2][i], gradients[i]) / (4 * max(own, floor))
    return errors


@pytest.mark.parametrize("side", RUNS)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_losses_and_gradients_are_the_stored_ones(case, side):
    wrong = {name: error for name, error in _errors(case, side).items() if error > 1}
    assert wrong == {}, f"errors over their limits, should be at most 1 [{case['kind']}, {side}]"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_frameworks_agree_in_float64_on_the_stored_cases(case):
    _assert_equal(*_case(case))


def _assert_equal(config, logits, masks, targets, **options):
    expected = _torch_run(config, logits, masks, targets, "float64")
    actual = _tf_run(config, logits, masks, targets, "float64", **options)
    for name, value in expected[0].items():
        gap = abs(actual[0][name] - value) / max(abs(value), 1e-300) if value else actual[0][name]
        assert gap <= 1e-12, f"gap is {gap:.3g}, but should be below 1e-12 [{name}, float64]"
    for i, name in enumerate(("grad_logits", "grad_masks")):
        gap = _relative(actual[2][i], expected[2][i])
        assert gap <= 1e-12, f"gap is {gap:.3g}, but should be below 1e-12 [{name}, float64]"


def _random(seed, counts, layers=2, size=(23, 29)):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(layers, len(counts), 9, 6))
    masks = rng.normal(size=(layers, len(counts), 9, 6, 7)) * 3
    targets = []
    for t in counts:
        owner = rng.integers(-1, max(t, 1), size)
        masks_of = owner == np.arange(t)[:, None, None]
        if t > 1:
            masks_of[0] = False  # cropped away entirely; still a target
        targets.append({"labels": rng.integers(0, 5, t), "masks": masks_of})
    weights = {"loss_ce": 1.0, "loss_mask": 20.0, "loss_dice": 1.0}
    return _config(5, weights, 0.1), logits, masks, targets


@settings(max_examples=5)
@given(st.integers(0, 2**31), st.lists(st.integers(0, 11), min_size=1, max_size=3))
def test_frameworks_agree_in_float64_on_id_maps(seed, counts):
    _assert_equal(*_random(seed, counts), overlapping=False)


def test_chunks_change_nothing(monkeypatch):
    config, logits, masks, targets = _random(3, [7, 2, 0])
    for pixels in (1, 3 * 23 * 29):
        monkeypatch.setattr(tf_criterion, "CHUNK_PIXELS", pixels)
        _assert_equal(config, logits, masks, targets, overlapping=False)
        _assert_equal(config, logits, masks, targets, overlapping=True)


def test_compiled_losses_agree_in_float64():
    _assert_equal(*_random(5, [4, 0, 9]), overlapping=False, compiled=True)


def _swapped_pairs(original):
    def swapped(*arguments):
        matching = original(*arguments)
        count = tf.reduce_sum(tf.cast(matching.query_of_target[0, 0] >= 0, tf.int32))
        rolled = tf.roll(matching.query_of_target[..., :count], 1, axis=-1)
        rest = matching.query_of_target[..., count:]
        return matching._replace(query_of_target=tf.concat([rolled, rest], axis=-1))

    return swapped


def _without_smoothing(logits, wanted):
    focal, _ = _focal_and_dice(logits, wanted)
    probability, target = tf.sigmoid(logits), tf.cast(wanted, logits.dtype)
    overlap = 2 * tf.reduce_sum(probability * target, axis=(1, 2))
    total = tf.reduce_sum(probability + target, axis=(1, 2))
    return focal, 1 - overlap / total


def _nearest(x, size):
    moved = tf.image.resize(x[..., None], size, method="nearest")
    return tf.cast(moved[..., 0], x.dtype)


def _without_last_aux(outputs):
    return _stacked({**outputs, "aux_outputs": outputs["aux_outputs"][:-1]})


_focal_and_dice, _stacked = tf_criterion._focal_and_dice, tf_criterion._stacked

FAULTS = {
    "focal alpha swapped": ("FOCAL_ALPHA", 1 - tf_criterion.FOCAL_ALPHA, "loss_mask"),
    "focal gamma": ("FOCAL_GAMMA", 1, "loss_mask"),
    "dice without +1": ("_focal_and_dice", _without_smoothing, "loss_dice"),
    "nearest upsampling": ("resize_bilinear", _nearest, "grad_masks"),
    "matcher indices swapped": ("match", _swapped_pairs(tf_criterion.match), "loss_mask"),
    "one auxiliary loss missing": ("_stacked", _without_last_aux, "loss_mask_1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_detected(monkeypatch, fault):
    name, replacement, where = FAULTS[fault]
    monkeypatch.setattr(tf_criterion, name, replacement)
    error = _errors(CASES[0], "tf")[where]
    assert error > 10, f"{fault}: {where} is {error:.2f} of its limit, so it would pass"


def test_no_object_weight_on_the_wrong_class_is_detected(monkeypatch):
    init = tf_criterion.SetCriterion.__init__

    def wrong(self, *arguments, **options):
        init(self, *arguments, **options)
        self.empty_weight.assign(self.empty_weight[::-1])

    monkeypatch.setattr(tf_criterion.SetCriterion, "__init__", wrong)
    errors = _errors(CASES[0], "tf")
    assert min(errors["loss_ce"], errors["grad_logits"]) > 10
    assert max(errors["loss_mask"], errors["loss_dice"]) <= 1


def test_state_holds_the_class_weights():
    config = _random(0, [1])[0]
    weight = torch_criterion.SetCriterion(config).state_dict()["empty_weight"]
    ours = tf_criterion.SetCriterion(config).empty_weight.numpy()
    assert weight.tolist() == ours.tolist() == [1.0] * 5 + [float(np.float32(0.1))]


@pytest.mark.parametrize("ignored", [False, True])
def test_per_pixel_losses_agree_in_float64(ignored):
    rng = np.random.default_rng(2)
    logits = [rng.normal(size=(2, 5, 6, 7)) for _ in range(2)]
    labels = rng.integers(0, 5, (2, 24, 28))
    if ignored:
        labels[rng.random(labels.shape) < 0.3] = 255
    inputs = [torch.tensor(x, requires_grad=True) for x in logits]
    expected = torch_criterion.per_pixel_losses(
        {"sem_seg": inputs[0], "aux_outputs": [{"sem_seg": inputs[1]}]}, torch.tensor(labels), 255
    )
    torch_criterion.weighted_total(expected, LossConfig()).backward()
    watched = [tf.constant(x) for x in logits]
    with tf.GradientTape() as tape:
        tape.watch(watched)
        actual = tf_criterion.per_pixel_losses(
            {"sem_seg": watched[0], "aux_outputs": [{"sem_seg": watched[1]}]},
            tf.constant(labels, tf.int32),
            255,
        )
        total = tf_criterion.weighted_total(actual, LossConfig())
    assert actual.keys() == expected.keys() == {"loss_sem_seg", "loss_sem_seg_0"}
    for name, value in expected.items():
        assert float(actual[name]) == pytest.approx(float(value.detach()), rel=1e-12)
    for ours, theirs in zip(tape.gradient(total, watched), inputs, strict=True):
        assert _relative(ours.numpy(), theirs.grad.numpy()) < 1e-12
