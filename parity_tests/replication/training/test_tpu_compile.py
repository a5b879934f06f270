"""The real TPU compiler takes the whole training step, and refuses what no TPU could run."""

import pytest

import tf_impl
import tf_impl.criterion as criterion_module
from maskformer.model import zoo
from parity.errors import InputError
from replication.tpu.published import SLICES
from tf_impl.criterion import SetCriterion, weighted_total
from tf_impl.layers import resize_bilinear
from tf_impl.matcher import Targets
from tf_impl.optimizer import build_optimizer
from tf_impl.tpu.lowering import NotCompilableError, Program, Shapes, lower, lower_train_step
from tf_impl.tpu.preflight import CHIPS, chip_of, compile_for, missing_compiler

TOPOLOGY = "v5e:2x2"
SHAPES = Shapes(batch=1, height=64, width=96, max_targets=8)
FASTEST = -1.0

needs_compiler = pytest.mark.skipif(
    missing_compiler() is not None, reason=missing_compiler() or "the TPU compiler is there"
)


@needs_compiler
@pytest.mark.parametrize(
    ("precision", "replicas"),
    [("float32", 4), pytest.param("mixed_bfloat16", 1, marks=pytest.mark.slow)],
)
def test_the_whole_training_step_compiles_for_a_tpu(precision, replicas):
    entry = zoo.get("tiny")
    model = tf_impl.build(entry.model, precision)
    optimizer = build_optimizer(model, entry.solver, "float32")
    program = lower_train_step(model, optimizer, SHAPES, replicas)
    found = compile_for(program, TOPOLOGY, FASTEST)
    assert found.compiles, found.reason
    # Weights and both moments are arguments, and are written in place.
    trained = sum(4 * v.shape.num_elements() for v in model.trainable_variables)
    assert 3 * trained < found.memory["arguments"] < 3.2 * trained
    assert found.memory["outputs"] < 1 << 20
    assert found.hbm_used < CHIPS["v5e"].hbm
    # Forward, backward and update take more than the forward pass of the backbone alone.
    assert found.flops > 1e9
    assert 0 < found.roofline_seconds < 1


def compiled_losses(image, targets):
    """The losses of six decoder layers and their gradient, for one image of `image` pixels."""
    import tensorflow as tf

    config = zoo.model_config("coco_r50")
    criterion = SetCriterion(config)
    shapes = Shapes(1, image, image, targets)
    layers, queries = config.predictor.dec_layers, config.predictor.num_queries

    def gradients(logits, masks, *given):
        wanted = Targets(*given)
        with tf.GradientTape() as tape:
            tape.watch((logits, masks))
            outputs = [
                {"pred_logits": one, "pred_masks": mask}
                for one, mask in zip(tf.unstack(logits), tf.unstack(masks), strict=True)
            ]
            outputs = {**outputs[0], "aux_outputs": outputs[1:]}
            total = weighted_total(criterion(outputs, wanted), config.loss)
        return tape.gradient(total, (logits, masks))

    specs = [
        tf.TensorSpec((layers, 1, queries, config.num_classes + 1)),
        tf.TensorSpec((layers, 1, queries, image // 4, image // 4)),
        *shapes.specs(config)[2:],
    ]
    return compile_for(lower(gradients, specs), TOPOLOGY, FASTEST), 4 * layers * targets * image**2


@needs_compiler
def test_losses_of_a_hundred_masks_at_640_need_little_memory():
    """All masks at full resolution would be a gigabyte; they exist one chunk at a time."""
    found, all_masks = compiled_losses(640, 100)
    assert found.compiles, found.reason
    print(f"\n{found.memory['temporaries'] / 1e6:.0f} MB; all masks once: {all_masks / 1e6:.0f} MB")
    assert found.memory["temporaries"] < all_masks / 2


@needs_compiler
def test_losses_of_all_masks_at_once_need_their_memory():
    """The twin: upsampled and expanded together, the masks are held in full."""
    import tensorflow as tf

    def gradient(logits, owner):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            wanted = owner == tf.range(600)[:, None, None]
            full = resize_bilinear(logits, (256, 256))
            total = tf.add_n(tf.nest.flatten(criterion_module._focal_and_dice(full, wanted)))
        return tape.gradient(total, logits)

    specs = [tf.TensorSpec((600, 64, 64)), tf.TensorSpec((1, 256, 256), tf.int32)]
    found = compile_for(lower(gradient, specs), TOPOLOGY, FASTEST)
    assert found.memory["temporaries"] > 4 * 600 * 256**2


@pytest.fixture(scope="module")
def vector():
    import tensorflow as tf

    return tf.TensorSpec((64,), tf.float32)


@needs_compiler
def test_products_are_asked_for_in_full_precision(monkeypatch):
    """A TPU would take its fastest otherwise, and a run does not; the twin leaves it at that."""
    import tensorflow as tf
    from jax._src.interpreters import mlir

    from tf_impl.tpu.compiler import stable_module

    def product():
        program = lower(lambda a: tf.matmul(a, a), [tf.TensorSpec((4, 4))])
        with mlir.make_ir_context():
            return str(stable_module(program.hlo))

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    assert "precision = [HIGHEST, HIGHEST]" in product()
    assert tf.config.experimental.tensor_float_32_execution_enabled() == before
    tf.config.experimental.enable_tensor_float_32_execution(True)
    monkeypatch.setattr(
        tf.config.experimental, "enable_tensor_float_32_execution", lambda enabled: None
    )
    try:
        assert "precision = [DEFAULT, DEFAULT]" in product()
    finally:
        monkeypatch.undo()
        tf.config.experimental.enable_tensor_float_32_execution(before)


@needs_compiler
def test_a_step_whose_shape_depends_on_data_is_refused(vector):
    import tensorflow as tf

    program = lower(lambda x: tf.cumsum(tf.boolean_mask(x, x > 0, name="chosen")), [vector])
    found = compile_for(program, TOPOLOGY, FASTEST)
    assert not found.compiles
    assert found.kind == "shapes"
    assert found.reason.startswith("a shape depends on data: stablehlo.set_dimension_size")
    assert "chosen" in found.reason


def test_python_in_the_middle_of_a_step_is_refused(vector):
    import tensorflow as tf

    def step(x):
        return tf.reduce_sum(tf.py_function(lambda v: v * 2, [x], tf.float32))

    with pytest.raises(NotCompilableError, match="EagerPyFunc"):
        lower(step, [vector])


@needs_compiler
def test_a_program_larger_than_the_memory_is_refused():
    import tensorflow as tf

    side = 100_000  # 40 GB a matrix; v5e has 16 GiB
    matrix = tf.TensorSpec((side, side), tf.float32)
    found = compile_for(lower(lambda a: tf.matmul(a, a), [matrix]), TOPOLOGY, FASTEST)
    assert not found.compiles
    assert found.kind == "memory"
    assert "HBM" in found.reason
    assert 40e9 < found.needed < 130e9  # a matrix or two, and the product


@needs_compiler
def test_a_topology_that_does_not_exist_is_refused(vector):
    import tensorflow as tf

    program = lower(tf.reduce_sum, [vector])
    found = compile_for(program, "v5e:3x7")
    assert (found.compiles, found.kind) == (False, "topology")
    many = compile_for(Program(program.hlo, 64), TOPOLOGY)
    assert "4 devices, fewer than 64 replicas" in many.reason
    with pytest.raises(InputError, match="no TPU kind"):
        chip_of("v99:2x2")


@needs_compiler
@pytest.mark.parametrize(("topology", "cores"), SLICES)
def test_a_slice_has_as_many_devices_as_the_table_says(topology, cores):
    """Two cores of a v4 chip are one device of all its memory, not two of half of it."""
    found = compile_for(Program(b"", 64), topology)
    assert found.reason == f"{topology} has {cores} devices, fewer than 64 replicas"
