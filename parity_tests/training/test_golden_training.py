"""Losses, matchings, gradients and updates of both frameworks against the original's stored ones.

The stored gradients are the original's float64 run, rounded to float32. Its position encoding stays
float32 there, so the reference is run that way for them; the port is then held to the reference.
"""

import dataclasses
from functools import lru_cache

import numpy as np
import pytest

from maskformer import zoo
from parity.judge import PRECISION_FACTOR
from parity_tests import golden_files
from parity_tests.models.test_golden import weights_of
from parity_tests.training.cases import tf_case, torch_case
from replication.training_pair import keyed, zero_in_theory
from tf_impl import train_step as tf_step
from tf_impl.optimizer import build_optimizer as build_tf_optimizer
from torch_reference import train_step as torch_step
from torch_reference.optimizer import build_optimizer as build_torch_optimizer

ROUNDING32 = float(np.finfo(np.float32).eps) / 2
STEPS = 3
LOW_RATE = 1e-6
QUICK = ("tiny_64x96",)  # the others take minutes
TRAINED = [case for case in golden_files.cases() if "grad_names" in golden_files.load(case)[1]]
CASES = [pytest.param(case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in TRAINED]


def solver_of(case):
    """The case's solver at the low rate, at which three steps are not chaotic."""
    solver = zoo.get(golden_files.load(case)[1]["config"]).solver
    return dataclasses.replace(solver, base_lr=LOW_RATE, warmup_iters=0)


@lru_cache(maxsize=2)
def torch_run(case, dtype="float64", positions=None):
    """Losses, gradients, matchings, and the change of every weight after 1 and 3 updates."""
    model, batch = torch_case(case, dtype, positions)
    optimizer = build_torch_optimizer(model, solver_of(case))
    before = {key: p.detach().numpy().copy() for key, p in model.named_parameters()}
    found = {"pairs": torch_pairs(model, batch)}
    for step in range(STEPS):
        losses, total = torch_step.backward(model, batch)
        if step == 0:
            found["losses"] = {name: float(value) for name, value in losses.items()}
            found["total"] = float(total)
            gradients = torch_step.gradients(model)
            found["gradients"] = {key: g.numpy().copy() for key, g in gradients.items()}
        optimizer.step()
        after = {key: p.detach().numpy() - before[key] for key, p in model.named_parameters()}
        found[f"upd{step + 1}"] = after
    return found


def torch_pairs(model, batch):
    """Pairs [2,n] by the stored names, final layer and auxiliary ones."""
    if model.config.is_per_pixel:
        return {}
    import torch

    with torch.no_grad():
        outputs = model(batch.images, batch.sizes)
        layers = {"final": outputs}
        layers |= {f"aux{i}": aux for i, aux in enumerate(outputs.get("aux_outputs", ()))}
        return {
            f"match_{name}_{image}": np.stack([index.numpy() for index in pair])
            for name, layer in layers.items()
            for image, pair in enumerate(model.criterion.matcher(layer, batch.targets))
        }


@lru_cache(maxsize=2)
def tf_run(case, dtype="float64"):
    """The same of the port, arrays in torch's layout."""
    model, batch = tf_case(case, dtype)
    optimizer = build_tf_optimizer(model, solver_of(case), dtype)
    optimizer.build(model.trainable_variables)
    before = keyed(model, [variable.numpy() for variable in model.trainable_variables])
    found = {}
    for step in range(STEPS):
        result = tf_step.gradients(model, batch)
        if step == 0:
            found["losses"] = {name: float(value) for name, value in result.losses.items()}
            found["total"] = float(result.total)
            found["gradients"] = keyed(model, [value.numpy() for value in result.values])
            found["pairs"] = tf_pairs(result.matching, batch)
        tf_step.update(model, optimizer, result.values)
        after = keyed(model, [variable.numpy() for variable in model.trainable_variables])
        found[f"upd{step + 1}"] = {key: after[key] - before[key] for key in after}
    return found


def tf_pairs(matching, batch):
    """As `torch_pairs`, queries increasing as scipy returns them."""
    if matching is None:
        return {}
    target_of_query = matching.target_of_query.numpy()
    names = ["final", *(f"aux{i}" for i in range(len(target_of_query) - 1))]
    pairs = {}
    for name, layer in zip(names, target_of_query, strict=True):
        for image, targets in enumerate(layer):
            queries = np.flatnonzero(targets >= 0)
            pairs[f"match_{name}_{image}"] = np.stack([queries, targets[queries]])
    return pairs


def relative(actual, expected):
    scale = np.linalg.norm(expected)
    gap = np.linalg.norm(np.asarray(actual, np.float64) - expected)
    return float(gap / scale) if scale else float(gap)


def sampled(case, by_key, stored):
    """Rows (key, our values, stored values) where the gradient is not zero in theory."""
    arrays, meta = golden_files.load(case)
    config = weights_of(case)[0]
    for index, key in enumerate(meta["grad_names"]):
        full = by_key[key]
        place = golden_files.sample_index(full.size)
        kept = ~zero_in_theory(config, key, full.shape).reshape(-1)[place]
        if kept.any():
            row = arrays[stored][index][: len(place)].astype(np.float64)
            yield key, full.reshape(-1)[place][kept], row[kept]


def gradient_problems(case, gradients, allowed):
    """Every gradient that is further from the stored one than its rounding to float32 allows.

    `allowed` is added to the limit of each: absolute, at the stored places.
    """
    problems = []
    for key, ours, stored in sampled(case, gradients, "grad_samples_f64"):
        # Each stored value is off by half a float32 ulp; nothing else differs but float64 rounding.
        limit = ROUNDING32 * np.linalg.norm(stored) * 1.001 + allowed.get(key, 0.0)
        gap = np.linalg.norm(ours - stored)
        if not gap <= limit:
            problems.append(f"{key} is {gap:.3g} away, but should be below {limit:.3g} [{case}]")
    return problems


@pytest.mark.parametrize("case", CASES)
def test_losses_and_matchings_are_the_stored_ones(case):
    _, meta = golden_files.load(case)
    config = weights_of(case)[0]
    exact = torch_run(case, positions="float32")
    ours = tf_run(case)
    moved = torch_run(case)
    stored_pairs = {
        key: golden_files.load(case)[0][key]
        for key in golden_files.load(case)[0]
        if key.startswith("match_") and "__" not in key
    }
    for found in (exact, ours):
        assert found["pairs"].keys() == stored_pairs.keys()
        for name, pairs in stored_pairs.items():
            assert found["pairs"][name].tolist() == pairs.tolist(), f"{name} [{case}]"
    weight = {"loss_mask": config.loss.mask_weight, "loss_dice": config.loss.dice_weight}
    for name, stored in meta["losses_weighted_f64"].items():
        scale = weight.get(name.rstrip("_0123456789"), 1.0)
        # The original's float64 run still divides and averages some scalars in float32.
        limit = max(1e-12, ROUNDING32 if config.is_per_pixel else 0.0)
        gap = abs(exact["losses"][name] * scale / stored - 1)
        assert gap <= limit, f"{name} is {gap:.3g}, but should be below {limit:.3g} [{case}]"
        gap = abs(ours["losses"][name] / moved["losses"][name] - 1)
        assert gap <= 1e-12, f"{name} is {gap:.3g}, but should be below 1e-12 [{case}, port]"


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_the_stored_ones(case):
    exact, plain = torch_run(case, positions="float32"), torch_run(case)
    assert gradient_problems(case, exact["gradients"], {}) == []
    # The port's positions are float64; what that alone changes is measured on the reference.
    allowed = {
        key: np.linalg.norm(ours - theirs) * (1 + 1e-6)
        for (key, ours, _), (_, theirs, _) in zip(
            sampled(case, plain["gradients"], "grad_samples_f64"),
            sampled(case, exact["gradients"], "grad_samples_f64"),
            strict=True,
        )
    }
    assert gradient_problems(case, tf_run(case)["gradients"], allowed) == []


@pytest.mark.parametrize("name", ["lowlr_upd1", "lowlr_upd3"])
@pytest.mark.parametrize("case", CASES)
def test_updates_are_the_stored_ones(case, name):
    steps = name.removeprefix("lowlr_")
    exact = _joined(case, torch_run(case)[steps], name)
    own = relative(_joined(case, torch_run(case, "float32")[steps], name), exact)
    stored = np.concatenate(
        [row for _, _, row in sampled(case, torch_run(case)[steps], f"{name}_samples")]
    )
    limit = PRECISION_FACTOR * own
    for side, found in (("reference", exact), ("port", _joined(case, tf_run(case)[steps], name))):
        gap = relative(found, stored)
        assert gap <= limit, (
            f"{name} is {gap:.3g}, but should be below {limit:.3g} [{case}, {side}]"
        )


def _joined(case, changes, name):
    return np.concatenate(
        [ours for _, ours, _ in sampled(case, changes, f"{name}_samples")]
    ).astype(np.float64)
