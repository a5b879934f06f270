"""The task's step is the audited one, and one XLA program for any number of replicas."""

import numpy as np
import pytest

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)

import tensorflow as tf  # isort: skip

from parity.errors import InputError
from parity_tests.implementations.task import runs
from tf_impl import train_step as steps
from tf_impl.model_garden.task import MaskFormerTask
from tf_impl.tpu.lowering import NotCompilableError, lower


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """Task, model, optimizer and the first batch."""
    data = runs.write_data(tmp_path_factory.mktemp("task"), images=5)
    changes = {"model": {"predictor": {"dropout": 0.0, "dec_layers": 1}}}
    params = runs.experiment(runs.overrides(data, 4, task=changes))
    task = MaskFormerTask(params.task)
    model = task.build_model()
    optimizer = task.create_optimizer(params.trainer.optimizer_config)
    batch = next(iter(task.build_inputs(params.task.train_data)))
    return task, model, optimizer, batch


def test_the_step_is_the_audited_one(ready):
    """Losses, norm and weights are those of `tf_impl.train_step.train_step`."""
    task, model, optimizer, batch = ready
    before = [variable.numpy() for variable in (*model.variables, *optimizer.variables)]
    logs = task.train_step(batch, model, optimizer)
    after = [variable.numpy() for variable in model.trainable_variables]
    for variable, value in zip((*model.variables, *optimizer.variables), before, strict=True):
        variable.assign(value)
    expected = steps.train_step(model, optimizer, task._batch(batch), training=True)
    assert float(logs["loss"]) == float(expected.total)
    assert float(logs["gradient_norm"]) == float(expected.gradient_norm)
    for name, loss in expected.losses.items():
        assert float(logs[name]) == float(loss)
    for one, variable in zip(after, model.trainable_variables, strict=True):
        assert np.array_equal(one, variable.numpy())
    outputs = model(task._batch(batch).images, sizes=batch["sizes"], training=True)
    assert np.isfinite(float(task.build_losses(task._batch(batch).targets, outputs)))
    assert logs["pairs"] == tf.reduce_sum(tf.cast(batch["valid"], tf.float32))


def test_the_step_is_one_xla_program(ready):
    """With the sums over replicas, the sentinels and the seeded dropout in it."""
    task, model, optimizer, batch = ready
    names = sorted(batch)

    def step(*tensors):
        return task.train_step(dict(zip(names, tensors, strict=True)), model, optimizer)

    specs = [tf.TensorSpec(batch[name].shape, batch[name].dtype) for name in names]
    assert len(lower(step, specs, replicas=2).hlo) > 100_000


def test_a_step_with_python_inside_is_noticed(ready):
    """The twin: a callback cannot be compiled."""
    images = ready[-1]["images"]

    def step(images):
        return tf.numpy_function(lambda x: x, [images], tf.uint8)

    with pytest.raises(NotCompilableError):
        lower(step, [tf.TensorSpec(images.shape, tf.uint8)])


def test_the_initial_weights_are_a_function_of_the_seed(tmp_path):
    """Also those of a run that was killed before its first checkpoint, and began again."""

    def weights(seed):
        values = runs.overrides(tmp_path, 2, task={"seed": seed})
        model = MaskFormerTask(runs.experiment(values).task).build_model()
        return np.concatenate([v.numpy().ravel() for v in model.trainable_variables])

    first = weights(3)
    assert np.array_equal(weights(3), first)
    assert np.mean(weights(4) == first) < 0.5  # norms and most biases begin alike


def test_a_step_in_parts_is_that_of_the_whole_batch(tmp_path):
    """Losses, norm and counts of one batch of four, at once and in two parts."""
    data = runs.write_data(tmp_path, images=6)

    def logs(parts):
        changes = {
            "model": {"predictor": {"dropout": 0.0, "dec_layers": 1}},
            "normalisation": "global",
            "micro_batches": parts,
        }
        params = runs.experiment(runs.overrides(data, 4, batch=4, task=changes))
        task = MaskFormerTask(params.task)
        model = task.build_model()
        optimizer = task.create_optimizer(params.trainer.optimizer_config)
        batch = next(iter(task.build_inputs(params.task.train_data)))
        return {k: float(v) for k, v in task.train_step(batch, model, optimizer).items()}

    whole, parts = logs(1), logs(2)
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-4), name
    assert whole["pairs"] > 4


def test_a_batch_that_parts_cannot_share_is_refused(tmp_path):
    data = runs.write_data(tmp_path, images=4)
    changes = {"micro_batches": 2}
    params = runs.experiment(runs.overrides(data, 4, batch=3, task=changes))
    with pytest.raises(InputError, match="a replica has 3 images"):
        MaskFormerTask(params.task).build_inputs(params.task.train_data)
