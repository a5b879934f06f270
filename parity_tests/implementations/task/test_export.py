"""The exported model gives, for any photograph, what the port's inference gives in Python."""

import hashlib

import numpy as np
import pytest

import tf_impl

import tensorflow as tf  # isort: skip

from maskformer.data.augmentation import resized_shape
from maskformer.data.images import synthetic_image
from maskformer.inference.prediction import QueryDecisions, merge_queries
from maskformer.model import zoo
from maskformer.model.inputs import InputConfig
from parity.errors import InputError
from tf_impl import export
from tf_impl.dataset import evaluation_image
from tf_impl.inference import predict
from tf_impl.layers import bilinear_matrix
from tf_impl.optimizer import build_optimizer
from tf_impl.tpu.lowering import Shapes, lower

CONFIG = zoo.model_config("scenes_tiny").replace(
    pixel_decoder={"conv_dim": 32, "mask_dim": 32, "transformer_enc_layers": 1},
    predictor={"hidden_dim": 32, "num_queries": 12, "dim_feedforward": 32, "dec_layers": 1},
    inference={"object_mask_threshold": 0.0, "overlap_threshold": 0.3},
)
INPUTS = InputConfig(mapper="detr_panoptic", min_size_test=48, max_size_test=90)
SHAPES = ((64, 96), (96, 64))
PHOTOGRAPHS = ((50, 70), (130, 75))


@pytest.fixture(scope="module")
def model():
    tf.random.set_seed(1)
    return tf_impl.build(CONFIG)


@pytest.fixture(scope="module")
def loaded(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "saved"
    export.save(export.Serving(model, INPUTS, SHAPES), folder)
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]
    return tf.saved_model.load(str(folder)).signatures["serving_default"]


@pytest.mark.parametrize("size", PHOTOGRAPHS)
def test_the_signature_gives_the_segments_of_predict(model, loaded, size):
    photograph = synthetic_image(*size, 5)
    found = {key: value.numpy() for key, value in loaded(image=tf.constant(photograph)).items()}

    target = resized_shape(*size, INPUTS.min_size_test, INPUTS.max_size_test)
    scaled = export.resize(tf.constant(photograph), tf.constant(target)).numpy()
    padded = next(s for s in SHAPES if target[0] <= s[0] and target[1] <= s[1])
    batch = np.zeros((1, *padded, 3), np.float32)
    batch[0, : target[0], : target[1]] = scaled
    outputs = model(tf.constant(batch), sizes=tf.constant([target]), training=False)
    expected = predict(outputs, CONFIG, padded, [target], [size], ("panoptic",), jit_compile=False)[
        0
    ].panoptic
    assert found["panoptic_map"].shape == size
    assert found["segment_id"].tolist() == [s.id for s in expected.segments]
    assert found["category_id"].tolist() == [s.category_id for s in expected.segments]
    things = [s.category_id in CONFIG.inference.thing_ids for s in expected.segments]
    assert found["is_thing"].tolist() == things
    assert (found["panoptic_map"] != expected.ids).mean() < 1e-3  # float32 ties of two queries
    assert len(expected.segments) > 0


def test_segments_are_merged_as_on_the_host():
    """Random decisions: things apart, stuff of one class together, lost queries dropped."""
    rng = np.random.default_rng(0)
    config = CONFIG.replace(inference={"overlap_threshold": 0.5})
    merged = 0
    for _ in range(50):
        q = 9
        owner = rng.integers(-1, q, (6, 7)).astype(np.int32)
        area = np.array([(owner == i).sum() for i in range(q)], np.int32)
        decisions = QueryDecisions(
            rng.random(q).astype(np.float32),
            rng.integers(0, config.num_classes + 1, q).astype(np.int32) % 11,
            rng.random(q) < 0.7,
            owner,
            area,
            (area * rng.uniform(1, 3, q)).astype(np.int32),
        )
        expected = merge_queries(decisions, config.inference.thing_ids, 0.5)
        tensors = {name: tf.constant(value) for name, value in vars(decisions).items()}
        found = export.merge_queries(tensors, config)
        assert np.array_equal(found["panoptic_map"], expected.ids)
        assert found["segment_id"].numpy().tolist() == [s.id for s in expected.segments]
        assert found["category_id"].numpy().tolist() == [s.category_id for s in expected.segments]
        kept = decisions.keep & (area > 0)
        merged += len(expected.segments) < kept.sum()
    assert merged > 10


@pytest.mark.parametrize("size", [*PHOTOGRAPHS, (40, 30), (300, 450)])
def test_photographs_are_resized_as_by_pillow(size):
    photograph = synthetic_image(*size, 1)
    expected = evaluation_image(photograph, INPUTS)
    found = export.resize(tf.constant(photograph), tf.constant(expected.shape[:2])).numpy()
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_sizes_and_matrices_are_those_of_the_host():
    for height, width in ((50, 70), (130, 75), (48, 48), (300, 31), (31, 300)):
        found = export._test_size(tf.constant([height, width]), INPUTS).numpy().tolist()
        assert found == [*resized_shape(height, width, 48, 90)]
    for out, size in ((7, 3), (3, 7), (10, 10), (1, 5)):
        found = export._bilinear(tf.constant(out), tf.constant(size)).numpy()
        assert np.array_equal(found, bilinear_matrix(out, size))


def test_every_resized_photograph_fits_a_shape():
    for name in ("coco_r50", "ade20k_r50", "cityscapes_r101", "scenes_tiny"):
        entry = zoo.get(name)
        shapes = export.serving_shapes(entry.model, entry.inputs)
        limits = (entry.inputs.min_size_test, entry.inputs.max_size_test)
        for height, width in ((480, 640), (640, 480), (100, 3000), (3000, 100), (512, 512)):
            size = resized_shape(height, width, *limits)
            assert any(size[0] <= s[0] and size[1] <= s[1] for s in shapes)


def test_a_shape_that_does_not_fit_is_noticed():
    """The twin: without the portrait shape a tall photograph has no place."""
    entry = zoo.get("coco_r50")
    wide = [s for s in export.serving_shapes(entry.model, entry.inputs) if s[0] < s[1]]
    size = resized_shape(640, 480, entry.inputs.min_size_test, entry.inputs.max_size_test)
    assert not any(size[0] <= s[0] and size[1] <= s[1] for s in wide)


def test_both_programs_are_stablehlo(tmp_path):
    """Static shapes, one argument per tensor and variable, and nothing that calls the host."""
    pytest.importorskip("jax")
    config = CONFIG.replace(predictor={"hidden_dim": 32, "dec_layers": 1, "num_queries": 4})
    model = tf_impl.build(config)
    optimizer = build_optimizer(model, zoo.get("scenes_tiny").solver)
    described = export.save_stablehlo(tmp_path, model, optimizer, Shapes(1, 32, 32, 3))
    for name in ("inference", "train_step"):
        code = (tmp_path / f"{name}.mlirbc").read_bytes()
        assert hashlib.sha256(code).hexdigest() == described[name]["sha256"]
        arguments, _, results = described[name]["types"].partition("->")
        assert "tensor<1x32x32x3xf32>" in arguments
        assert "?" not in arguments + results
        assert arguments.count("tensor<") >= len(model.variables)
    inference, train = (described[n]["types"] for n in ("inference", "train_step"))
    assert train.count("tensor<") > 3 * len(model.trainable_variables) > inference.count("tensor<")


def test_a_program_that_calls_the_host_is_refused():
    """The twin: a Python function in the middle has no StableHLO."""
    with pytest.raises(InputError):
        export.stablehlo(
            lower(
                lambda x: tf.numpy_function(lambda y: y, [x], tf.float32),
                [tf.TensorSpec((2,), tf.float32)],
            )
        )
