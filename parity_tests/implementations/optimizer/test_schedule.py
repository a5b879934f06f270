"""Learning rates equal the original's stored ones at every milestone, on both sides."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)
from maskformer.model.solver import SolverConfig, learning_rate
from parity.errors import InputError
from parity_tests.golden_files import read_json
from tf_impl.schedule import SolverSchedule as TfSchedule
from torch_reference.schedule import SolverSchedule as TorchSchedule

tf = pytest.importorskip("tensorflow")
GOLDEN = read_json("golden_lr.json")
ULP = 2.0**-52


def _solver(name: str) -> SolverConfig:
    stored = GOLDEN[name]
    return SolverConfig(
        base_lr=stored["base_lr"],
        schedule=stored["name"],
        max_iter=stored["max_iter"],
        steps=tuple(stored["steps"]),
        gamma=stored["gamma"],
        power=stored["poly_power"],
        warmup_factor=stored["warmup_factor"],
        warmup_iters=stored["warmup_iters"],
        warmup_method=stored["warmup_method"],
    )


def _wrong(name: str, rate: Callable[[int], float]) -> list[int]:
    """Iterations where `rate` is not the stored one, to the bit."""
    stored = GOLDEN[name]
    expected = dict(zip(stored["iters"], stored["lr"], strict=True))
    expected |= dict(enumerate(stored["first20_stepped"]))
    return [step for step, lr in sorted(expected.items()) if rate(step) != lr]


@pytest.mark.parametrize("name", GOLDEN)
def test_learning_rate_is_the_stored_one_to_the_bit(name):
    solver = _solver(name)
    assert _wrong(name, lambda step: learning_rate(solver, step)) == []


def test_a_milestone_that_acts_one_step_late_is_detected():
    solver = _solver("coco_r50")
    late = dataclasses.replace(solver, steps=(solver.steps[0] + 1,))
    assert _wrong("coco_r50", lambda step: learning_rate(late, step)) == [369_600]


@pytest.mark.parametrize("name", GOLDEN)
def test_tf_schedule_equals_the_plain_one(name):
    solver = _solver(name)
    schedule = TfSchedule(solver, "float64")
    compiled = tf.function(schedule, jit_compile=True)
    rounded = tf.function(TfSchedule(solver), jit_compile=True)
    for step in GOLDEN[name]["iters"]:
        expected = learning_rate(solver, step)
        # XLA divides by multiplying, and its power is good to 2 ulp; near 0 the plain one cancels.
        limit = 4 * ULP * solver.base_lr
        for actual in (schedule(step), compiled(tf.constant(step, tf.int64))):
            gap = abs(float(actual) - expected)
            assert gap <= limit, f"gap is {gap}, should be below {limit} [{name}, step {step}]"
        assert float(rounded(tf.constant(step, tf.int64))) == pytest.approx(
            expected, rel=2.0**-23, abs=1e-30
        )


def test_tf_schedule_survives_its_config():
    schedule = TfSchedule(_solver("coco_swin_tiny"))
    assert TfSchedule.from_config(schedule.get_config()).solver == schedule.solver


@pytest.mark.parametrize("name", ["coco_swin_tiny", "ade20k_swin_tiny", "ade20k_r50"])
def test_torch_schedule_gives_every_group_its_own_rate(name):
    solver = dataclasses.replace(_solver(name))
    head, backbone = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    groups = [{"params": [head]}, {"params": [backbone], "lr": 0.1 * solver.base_lr}]
    optimizer = torch.optim.SGD(groups, lr=solver.base_lr)
    schedule = TorchSchedule(optimizer, solver)
    for step in range(20):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates[0] == GOLDEN[name]["first20_stepped"][step]
        assert rates[1] == learning_rate(solver, step, 0.1 * solver.base_lr)
        optimizer.step()
        schedule.step()


def test_torch_schedule_resumes_where_it_stopped():
    solver = _solver("coco_swin_tiny")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=solver.base_lr)
    schedule = TorchSchedule(optimizer, solver)
    for _ in range(7):
        optimizer.step()
        schedule.step()
    state = schedule.state_dict()
    assert "solver" not in state
    again = TorchSchedule(torch.optim.SGD(optimizer.param_groups[0]["params"], lr=6e-5), solver)
    again.load_state_dict(state)
    optimizer.step()
    again.optimizer.step()
    schedule.step()
    again.step()
    assert again.get_last_lr() == schedule.get_last_lr()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "ADAM"}, "solver.optimizer is 'ADAM'"),
        ({"steps": (20, 10)}, "solver.steps is (20, 10)"),
        ({"warmup_iters": 600_000}, "solver.warmup_iters is 600000"),
        ({"clip_value": 0.0}, "solver.clip_value is 0.0"),
    ],
)
def test_a_solver_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(InputError) as caught:
        SolverConfig(**changes)
    assert str(caught.value).startswith(message)
