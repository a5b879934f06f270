"""Updates equal torch's over many steps; Keras' epsilon, or clipping too early, does not."""

import numpy as np
import pytest
import torch

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)
from maskformer.model.solver import SolverConfig
from replication.process.fresh_process import in_fresh_process
from replication.process.logical_replicas import mirrored
from tf_impl.optimizer import (
    OptimizationConfig,
    TorchAdamW,
    TorchSGD,
    build_optimizer,
    clip_scale,
)

tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")

STEPS = 1000
SIZE = 64
LR, DECAY = 1e-4, 1e-4


def _gradients(steps=STEPS, scale=1e-6):
    """Gradients as full-model clipping to 0.01 leaves them over 45 million parameters."""
    rng = np.random.default_rng(7)
    return scale * rng.normal(size=(steps, SIZE)) * np.exp(rng.normal(size=SIZE))


def _start():
    return np.random.default_rng(8).normal(size=SIZE)


def _torch_run(optimizer_class, gradients, clip=None, **settings):
    parameter = torch.nn.Parameter(torch.tensor(_start()))
    optimizer = optimizer_class([parameter], lr=LR, weight_decay=DECAY, **settings)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([parameter], clip)
        optimizer.step()
    return parameter.detach().numpy()


def _tf_run(optimizer, gradients, compiled=True):
    variable = tf.Variable(_start())
    optimizer.build([variable])

    @tf.function(jit_compile=compiled)
    def step(gradient):
        optimizer.apply_gradients([(gradient, variable)])

    for gradient in gradients:
        step(tf.constant(gradient))
    return variable.numpy()


class _Schedule(tf_keras.optimizers.schedules.LearningRateSchedule):
    """A constant rate in float64; a plain number would be rounded to float32."""

    def __call__(self, step):
        return tf.constant(LR, tf.float64)

    def get_config(self):
        return {}


def _gap(actual, expected):
    return float(np.abs(actual - expected).max())


def test_adamw_stays_with_torch_for_1000_steps():
    gradients = _gradients()
    expected = _torch_run(torch.optim.AdamW, gradients)
    gap = _gap(_tf_run(TorchAdamW(_Schedule(), DECAY), gradients), expected)
    assert gap < 1e-12, f"gap is {gap:.3g}, but should be below 1e-12 [AdamW, float64]"
    moved = _gap(expected, _start())
    assert moved > 5e-3, "the comparison means nothing unless the weights move"


def test_adamw_with_the_epsilon_of_keras_is_detected():
    gradients = _gradients()
    expected = _torch_run(torch.optim.AdamW, gradients)
    keras = tf_keras.optimizers.AdamW(
        learning_rate=_Schedule(), weight_decay=DECAY, jit_compile=False
    )
    gap = _gap(_tf_run(keras, gradients, compiled=False), expected)
    assert gap > 1e-3, f"gap is {gap:.3g}, so the comparison cannot see the epsilon"


def test_sgd_stays_with_torch():
    gradients = _gradients(200, scale=1.0)
    expected = _torch_run(torch.optim.SGD, gradients, momentum=0.9)
    gap = _gap(_tf_run(TorchSGD(_Schedule(), DECAY, 0.9), gradients), expected)
    assert gap < 1e-12, f"gap is {gap:.3g}, but should be below 1e-12 [SGD, float64]"


@pytest.mark.parametrize("scale", [1e-6, 1.0])
def test_full_model_clipping_is_that_of_torch(scale):
    gradients = _gradients(50, scale)
    expected = _torch_run(torch.optim.AdamW, gradients, clip=0.01)
    gap = _gap(_tf_run(TorchAdamW(_Schedule(), DECAY, global_clipnorm=0.01), gradients), expected)
    assert gap < 1e-12, f"gap is {gap:.3g}, but should be below 1e-12 [clip, scale {scale}]"


def test_clip_scale_has_the_epsilon_of_torch_and_never_enlarges():
    assert float(clip_scale([tf.constant([0.003, 0.004], tf.float64)], 0.01)) == 1.0
    scale = float(clip_scale([tf.constant([3.0, 4.0], tf.float64)], 0.01))
    assert scale == pytest.approx(0.01 / (5 + 1e-6), rel=1e-15)
    assert scale != 0.01 / 5


def test_groups_scale_the_rate_and_replace_the_decay():
    gradients = _gradients(20)
    optimizer = TorchAdamW(_Schedule(), DECAY)
    variable = tf.Variable(_start())
    optimizer.set_group(variable, 0.1, 0.5)
    optimizer.build([variable])
    parameter = torch.nn.Parameter(torch.tensor(_start()))
    reference = torch.optim.AdamW([parameter], lr=0.1 * LR, weight_decay=0.5)
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
        parameter.grad = torch.tensor(gradient)
        reference.step()
    assert _gap(variable.numpy(), parameter.detach().numpy()) < 1e-14


def test_float32_updates_stray_no_further_than_those_of_torch():
    gradients = _gradients(200)
    exact = _torch_run(torch.optim.AdamW, gradients)
    parameter = torch.nn.Parameter(torch.tensor(_start(), dtype=torch.float32))
    reference = torch.optim.AdamW([parameter], lr=LR, weight_decay=DECAY)
    variable = tf.Variable(_start().astype("float32"))
    optimizer = TorchAdamW(LR, DECAY)
    optimizer.build([variable])
    step = tf.function(
        lambda gradient: optimizer.apply_gradients([(gradient, variable)]), jit_compile=True
    )
    for gradient in gradients.astype("float32"):
        parameter.grad = torch.tensor(gradient)
        reference.step()
        step(tf.constant(gradient))
    ours = np.linalg.norm(variable.numpy() - exact)
    theirs = np.linalg.norm(parameter.detach().numpy() - exact)
    assert ours <= 4 * theirs, f"error is {ours:.3g}, torch's own is {theirs:.3g}"


def test_model_garden_factory_builds_the_optimizers():
    from official.modeling import optimization

    for kind, expected in (("torch_adamw", TorchAdamW), ("torch_sgd", TorchSGD)):
        config = OptimizationConfig(
            {
                "optimizer": {"type": kind, kind: {"weight_decay_rate": 0.01}},
                "learning_rate": {"type": "constant", "constant": {"learning_rate": 1e-4}},
            }
        )
        factory = optimization.OptimizerFactory(config)
        optimizer = factory.build_optimizer(
            factory.build_learning_rate(), use_legacy_optimizer=False
        )
        assert type(optimizer) is expected
        assert optimizer.weight_decay_rate == 0.01
        assert optimizer.global_clipnorm == 0.01
        assert type(optimizer).from_config(optimizer.get_config()).weight_decay_rate == 0.01


def test_state_survives_a_checkpoint(tmp_path):
    gradients = _gradients(6)
    whole = _tf_run(TorchAdamW(_Schedule(), DECAY), gradients)
    variable = tf.Variable(_start())
    optimizer = TorchAdamW(_Schedule(), DECAY)
    optimizer.build([variable])
    for gradient in gradients[:3]:
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
    path = tf.train.Checkpoint(variable=variable, optimizer=optimizer).write(str(tmp_path / "c"))

    resumed, again = tf.Variable(np.zeros(SIZE)), TorchAdamW(_Schedule(), DECAY)
    again.build([resumed])
    tf.train.Checkpoint(variable=resumed, optimizer=again).read(path).assert_consumed()
    for gradient in gradients[3:]:
        again.apply_gradients([(tf.constant(gradient), resumed)])
    assert _gap(resumed.numpy(), whole) < 1e-15


def _replicas(gradients, early):
    """The variable of each of two replicas after a step for each pair of gradients."""
    strategy = mirrored(2)
    with strategy.scope():
        variable = tf.Variable(np.zeros(gradients.shape[-1]))
        optimizer = TorchAdamW(1e-4, 0.0, global_clipnorm=None if early else 0.01)
        optimizer.build([variable])

    def step(gradient):
        if early:
            gradient = tf.clip_by_global_norm([gradient], 0.01)[0][0]
        optimizer.apply_gradients([(gradient, variable)])

    for pair in gradients:
        values = strategy.experimental_distribute_values_from_function(
            lambda context, pair=pair: tf.constant(pair[context.replica_id_in_sync_group])
        )
        strategy.run(step, args=(values,))
    return np.array([one.numpy() for one in strategy.experimental_local_results(variable)])


def test_clipping_follows_the_reduction_over_replicas():
    # Opposite large parts cancel in the sum; clipped first, they would not.
    rng = np.random.default_rng(3)
    large, small = rng.normal(size=(5, 4)), 1e-8 * rng.normal(size=(5, 4))
    gradients = np.stack([large + small, 1e-9 - 3 * large], axis=1)
    parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    reference = torch.optim.AdamW([parameter], lr=float(np.float32(1e-4)), weight_decay=0.0)
    for pair in gradients:
        parameter.grad = torch.tensor(pair.sum(axis=0))
        torch.nn.utils.clip_grad_norm_([parameter], 0.01)
        reference.step()
    expected = parameter.detach().numpy()
    both = in_fresh_process(_replicas, gradients, early=False)
    assert np.array_equal(both[0], both[1])
    assert _gap(both[0], expected) < 1e-12
    assert _gap(in_fresh_process(_replicas, gradients, early=True)[0], expected) > 1e-6


def test_published_solver_builds_optimizer_with_schedule():
    model = tf.Module()
    solver = SolverConfig(warmup_factor=1e-3, warmup_iters=100)
    optimizer = build_optimizer(model, solver)
    assert isinstance(optimizer, TorchAdamW)
    assert float(optimizer.learning_rate) == pytest.approx(1e-7, rel=1e-6)
    assert optimizer.global_clipnorm == 0.01
    sgd = build_optimizer(model, SolverConfig(optimizer="SGD", clip_type="none"))
    assert isinstance(sgd, TorchSGD)
    assert sgd.global_clipnorm is None
