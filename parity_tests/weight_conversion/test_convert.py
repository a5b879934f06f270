"""Conversions keep every bit, in every direction, and say what they did."""

import errno
import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from maskformer.model import zoo
from parity.errors import InputError
from parity_tests.weight_conversion.samples import (
    CONFIG,
    as_torch,
    state,
    write_pickle,
    write_safetensors,
    write_torch,
)
from weight_conversion import safetensors_file, tf_checkpoint
from weight_conversion.checkpoints import open_source
from weight_conversion.convert import convert
from weight_conversion.plan import fitting, make_plan
from weight_conversion.spec import expected
from weight_conversion.unwrapping import Choice


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return state()


@pytest.fixture(scope="module")
def source(weights, tmp_path_factory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp("source") / "small.safetensors", weights)


def converted(path: Path, **options) -> dict[str, np.ndarray]:
    """The tensors that the checkpoint at `path` gives for the small model."""
    with open_source(path, **options) as opened:
        plan = make_plan(opened, CONFIG)
        return {pair.spec.name: pair.combine(pair.load_sources()) for pair in plan.pairs}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), f"{name} differs, but should be equal"


@pytest.mark.parametrize(
    ("to", "name"),
    [
        ("tf", "tf"),
        ("hf", "hf"),
        ("torch", "a.pkl"),
        ("torch", "a.pth"),
        ("torch", "a.pt"),
        ("safetensors", "a.st"),
    ],
)
def test_round_trip_is_bit_identical_and_repeatable(to, name, source, tmp_path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        convert(source, folder / name, to, CONFIG)
        convert(folder / name, folder / "back.safetensors", "safetensors", CONFIG)
    assert (first / "back.safetensors").read_bytes() == source.read_bytes()
    for file in sorted(first.rglob("*")):
        if file.is_file():
            twin = second / file.relative_to(first)
            assert file.read_bytes() == twin.read_bytes(), f"{file.name} differs the second time"


def test_tf_checkpoint_is_accepted_by_tensorflow(source, weights, tmp_path) -> None:
    import tf_impl
    from weight_conversion.layouts import tf_to_torch

    convert(source, tmp_path / "tf", "tf", CONFIG)
    model = tf_impl.build(CONFIG)
    import tensorflow as tf

    prefix = tf.train.latest_checkpoint(str(tmp_path / "tf"))
    status = tf.train.Checkpoint(model=model).restore(prefix)
    status.assert_consumed()
    status.assert_existing_objects_matched()
    assert_same({name: tf_to_torch(model)[name] for name in weights}, weights)
    # a part of the model, as the Model Garden's `init_checkpoint_modules: backbone` reads it
    other = tf_impl.build(CONFIG)
    partial = tf.train.Checkpoint(backbone=other.backbone).read(prefix).expect_partial()
    partial.assert_existing_objects_matched()
    table = "backbone.layers.0.blocks.0.attn.relative_position_bias_table"
    np.testing.assert_array_equal(tf_to_torch(other)[table], weights[table])
    # and back from a checkpoint of a training, whose other state is left out by name
    step = tf.Variable(3, dtype=tf.int64)
    saved = tf.train.Checkpoint(model=model, global_step=step).save(str(tmp_path / "run"))
    assert_same(converted(Path(saved)), weights)
    with open_source(Path(saved)) as opened:
        assert opened.left_out == {"global_step/.ATTRIBUTES/VARIABLE_VALUE": "training state"}


def test_torch_files_load_with_weights_only_and_carry_the_version(source, weights, tmp_path):
    import torch

    import torch_reference

    convert(source, tmp_path / "a.pth", "torch", CONFIG)
    loaded = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    assert loaded._metadata["sem_seg_head"] == {"version": 2}
    torch_reference.build(CONFIG).load_state_dict(loaded, strict=True)
    assert_same({name: tensor.numpy() for name, tensor in loaded.items()}, weights)


def test_pickle_loads_as_detectron2_loads_it(source, weights, tmp_path) -> None:
    import pickle

    convert(source, tmp_path / "a.pkl", "torch", CONFIG)
    with (tmp_path / "a.pkl").open("rb") as file:
        content = pickle.load(file, encoding="latin1")
    assert set(content) == {"model", "__author__"}
    assert content["model"]._metadata["sem_seg_head"] == {"version": 2}
    assert_same(dict(content["model"]), weights)


def assert_library_agrees(config, tensors: dict, folder: Path) -> None:
    """The library's model, read from `folder`, computes in float64 what the reference computes."""
    import torch
    from transformers import MaskFormerForInstanceSegmentation

    import torch_reference

    library = MaskFormerForInstanceSegmentation.from_pretrained(folder).double().eval()
    model = torch_reference.build(config).double().eval()
    model.load_state_dict(as_torch(tensors))
    images = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 96)))
    with torch.no_grad():
        ours = model(images)
        theirs = library((images - model.pixel_mean) / model.pixel_std)
    for name, other in (
        ("pred_logits", theirs.class_queries_logits),
        ("pred_masks", theirs.masks_queries_logits),
    ):
        gap = (torch.norm(ours[name] - other) / torch.norm(other)).item()
        # the rounding of some 1e4 operations in another order
        limit = 1e4 * np.finfo(np.float64).eps
        assert gap < limit, f"{name} is {gap:.1e}, but should be below {limit:.1e} [float64]"


def test_library_folder_computes_what_the_reference_computes(source, weights, tmp_path) -> None:
    convert(source, tmp_path / "hf", "hf", CONFIG)
    assert_library_agrees(CONFIG, weights, tmp_path / "hf")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ade20k_r50", "ade20k_r101", "coco_swin_tiny"])
def test_full_size_library_folder_computes_what_the_reference_computes(name, tmp_path) -> None:
    config = zoo.model_config(name)
    tensors = state(config)
    path = write_safetensors(tmp_path / "source.safetensors", tensors)
    convert(path, tmp_path / "hf", "hf", config)
    assert_library_agrees(config, tensors, tmp_path / "hf")


def test_library_folder_with_one_tensor_swapped_computes_something_else(source, tmp_path) -> None:
    convert(source, tmp_path / "hf", "hf", CONFIG)
    back = converted(tmp_path / "hf")
    spoilt = dict(back)
    one, two = "backbone.norm0.weight", "backbone.norm0.bias"
    spoilt[one], spoilt[two] = back[two], back[one]
    with pytest.raises(AssertionError, match=r"backbone\.norm0\.weight differs"):
        assert_same(spoilt, back)


def version_1(tensors: dict) -> dict:
    """The names of before `pixel_decoder`, as in the published files."""
    return {
        k.replace("sem_seg_head.pixel_decoder.", "sem_seg_head."): v for k, v in tensors.items()
    }


def prefixed(prefix: str, tensors: dict) -> dict:
    return {f"{prefix}{name}": array for name, array in tensors.items()}


FORMS = {
    "numpy pickle": lambda t, p: write_pickle(p, {"model": t, "__author__": "someone"}),
    "numpy pickle, protocol 2": lambda t, p: write_pickle(p, {"model": t, "__author__": "x"}, 2),
    "ordered pickle": lambda t, p: write_pickle(p, {"model": OrderedDict(t), "__author__": "x"}),
    "version 1": lambda t, p: write_pickle(p, {"model": version_1(t), "__author__": "x"}),
    "bare": lambda t, p: write_torch(p, as_torch(t)),
    "state_dict": lambda t, p: write_torch(p, {"state_dict": as_torch(t), "epoch": 3}),
    "training": lambda t, p: write_torch(
        p, {"model": as_torch(t), "optimizer": {"state": {}}, "iteration": 7}
    ),
    "data parallel": lambda t, p: write_torch(
        p, as_torch({f"module.{k}": v for k, v in t.items()})
    ),
    "wrapped twice": lambda t, p: write_torch(
        p, {"model": as_torch(prefixed("module._orig_mod.", t))}
    ),
    "legacy torch": lambda t, p: write_torch(p, as_torch(t), _use_new_zipfile_serialization=False),
    "only an average": lambda t, p: write_torch(p, {"model_ema": {"module": as_torch(t)}}),
    "pixel constants": lambda t, p: write_torch(
        p,
        as_torch(
            t
            | {
                name: np.array(getattr(CONFIG, name), np.float32).reshape(3, 1, 1)
                for name in ("pixel_mean", "pixel_std")
            }
        ),
    ),
    "without constants": lambda t, p: write_torch(
        p, as_torch({k: v for k, v in t.items() if not expected(CONFIG)[k].constant})
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_checkpoint_gives_the_same_tensors(form, weights, tmp_path) -> None:
    FORMS[form](weights, tmp_path / "a.any")
    assert_same(converted(tmp_path / "a.any"), weights)


def test_average_is_taken_only_on_request(weights, tmp_path) -> None:
    other = state(seed=4)
    content = {"model": as_torch(weights), "ema_state": as_torch(other)}
    path = write_torch(tmp_path / "a.pth", content)
    assert_same(converted(path), weights)
    assert_same(converted(path, choice=Choice(ema=True)), other)
    with pytest.raises(InputError, match="has no exponential moving average"):
        converted(
            write_torch(tmp_path / "b.pth", {"model": as_torch(weights)}), choice=Choice(ema=True)
        )


def test_version_1_names_are_left_alone_where_version_2_names_are(weights, tmp_path) -> None:
    extra = dict(weights) | {"sem_seg_head.adapter_1.weight": np.zeros(3, np.float32)}
    path = write_pickle(tmp_path / "a.pkl", {"model": extra, "__author__": "x"})
    with pytest.raises(InputError, match=r"1 unexpected: sem_seg_head\.adapter_1\.weight \[3\]"):
        converted(path)


def test_dtype_changes_on_request_only(weights, tmp_path) -> None:
    half = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in weights.items()}
    path = write_safetensors(tmp_path / "half.safetensors", half)
    with pytest.raises(InputError, match=r"of another type \(--dtype float32 converts\)"):
        convert(path, tmp_path / "a.pth", "torch", CONFIG)
    receipt = convert(path, tmp_path / "a.safetensors", "safetensors", CONFIG, dtype="float32")
    assert receipt.options["dtype"] == "float32"
    constant = "criterion.empty_weight"  # exact again, not widened from its rounded form
    wanted = {k: v.astype(weights[k].dtype) for k, v in half.items()}
    wanted[constant] = weights[constant]
    assert_same(converted(tmp_path / "a.safetensors"), wanted)
    convert(path, tmp_path / "b.safetensors", "safetensors", CONFIG, dtype="float16")
    # the header's order of keys apart, the same bytes as the source
    assert (tmp_path / "b.safetensors").stat().st_size == path.stat().st_size


def test_bfloat16_is_widened_exactly(weights, tmp_path) -> None:
    import torch

    brain = {
        k: v.bfloat16() if v.dtype == torch.float32 else v for k, v in as_torch(weights).items()
    }
    path = write_torch(tmp_path / "a.pth", brain)
    convert(path, tmp_path / "a.safetensors", "safetensors", CONFIG, dtype="float32")
    wanted = {
        k: v.float().numpy() if v.is_floating_point() else v.numpy() for k, v in brain.items()
    }
    wanted["criterion.empty_weight"] = weights["criterion.empty_weight"]
    assert_same(converted(tmp_path / "a.safetensors"), wanted)


def test_fitting_names_the_configs_of_a_zoo_model(tmp_path) -> None:
    config = zoo.model_config("ade20k_pp")
    specs = expected(config).values()
    tensors = {s.name: np.zeros(s.shape, s.dtype) for s in specs}
    with open_source(write_safetensors(tmp_path / "a.safetensors", tensors)) as opened:
        assert fitting(opened) == ["ade20k_pp"]


def test_nothing_is_left_where_the_disk_is_full(source, tmp_path, monkeypatch) -> None:
    def full(stream, declared, arrays):
        stream.write(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors_file, "write", full)
    with pytest.raises(InputError, match=r"the disk of .* is full"):
        convert(source, tmp_path / "a.safetensors", "safetensors", CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_a_tf_checkpoint_that_cannot_be_written_is_one_clear_error(tmp_path) -> None:
    declared, arrays = [("a.weight", (3,), "float32")], [np.zeros(3, np.float32)]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        list(tf_checkpoint.write_parts(tmp_path / "file", declared, arrays))


def test_an_earlier_result_stays_whole_when_the_next_one_fails(source, weights, tmp_path) -> None:
    convert(source, tmp_path / "a.safetensors", "safetensors", CONFIG)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    broken = dict(weights)
    last = list(weights)[-2]
    broken[last] = np.full_like(weights[last], np.nan)
    path = write_safetensors(tmp_path / "nan", broken)
    with pytest.raises(InputError, match="NaN or infinite"):
        convert(path, tmp_path / "a.safetensors", "safetensors", CONFIG)
    path.unlink()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_earlier_folder_is_replaced_and_a_foreign_one_is_not(source, tmp_path) -> None:
    for _ in range(2):
        convert(source, tmp_path / "hf", "hf", CONFIG)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["hf"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match="exists and is no earlier result"):
        convert(source, tmp_path / "mine", "hf", CONFIG)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("a.bin", {"to": "torch"}, "says no torch format"),
        ("a", {"to": "onnx"}, "--to is 'onnx'"),
        ("a.pth", {"to": "torch", "dtype": "int8"}, "--dtype is 'int8'"),
        ("a", {"to": "tf", "dtype": "float16"}, "does not fit --to tf"),
        ("no/where/a.pth", {"to": "torch"}, "does not exist"),
    ],
)
def test_impossible_requests_are_refused(target, options, message, source, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        convert(source, tmp_path / target, config=CONFIG, **options)
    assert list(tmp_path.iterdir()) == []


def test_source_is_never_overwritten(weights, tmp_path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", weights)
    with pytest.raises(InputError, match="is also the source"):
        convert(path, path, "safetensors", CONFIG)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"pixel_decoder": {"name": "TransformerEncoderPixelDecoder"}}, "transformer encoder"),
        ({"predictor": {"pre_norm": True}}, "pre-norm"),
        ({"predictor": {"enc_layers": 2}}, "encoder layers in the predictor"),
        ({"head": "PerPixelBaselineHead"}, "head PerPixelBaselineHead"),
        ({"backbone": {"patch_norm": False}}, "Swin without patch norm"),
    ],
)
def test_what_the_library_cannot_hold_is_named(change, part, source, tmp_path) -> None:
    with pytest.raises(InputError, match=part):
        convert(source, tmp_path / "hf", "hf", CONFIG.replace(**change))


def test_receipt_accounts_for_every_tensor(source, weights, tmp_path) -> None:
    receipt = convert(source, tmp_path / "hf", "hf", CONFIG)
    assert [entry.name for entry in receipt.tensors] == list(weights)
    stored = json.loads((tmp_path / "hf" / "receipt.json").read_text())
    assert stored == json.loads(receipt.text())
    sources = [part.name for entry in receipt.tensors for part in entry.sources]
    assert sorted(sources) == sorted(weights)
    assert receipt.config["digest"] == CONFIG.digest


def test_shards_and_loose_files_of_the_library_are_read(source, weights, tmp_path) -> None:
    convert(source, tmp_path / "hf", "hf", CONFIG)
    with open_source(tmp_path / "hf") as opened:
        tensors = {name: stored.load() for name, stored in opened.tensors.items()}
    assert_same(converted(tmp_path / "hf" / "model.safetensors"), weights)
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "config.json").write_text((tmp_path / "hf" / "config.json").read_text())
    places = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for place in set(places.values()):
        part = {name: tensors[name] for name in tensors if places[name] == place}
        write_safetensors(shards / place, part)
    index = {"weight_map": places}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same(converted(shards), weights)
