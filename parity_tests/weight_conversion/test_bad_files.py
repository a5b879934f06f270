"""Whatever is wrong with a file, there is one clear error, nothing is written, nothing is run."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parity.errors import InputError
from parity_tests.weight_conversion.samples import (
    CONFIG,
    as_torch,
    flip_bit,
    state,
    write_pickle,
    write_safetensors,
    write_torch,
)
from weight_conversion.convert import convert

ONE, TWO = "backbone.norm0.weight", "backbone.norm1.weight"
Spoil = Callable[[Path], None]
BAD: dict[str, tuple[Spoil, str]] = {}


def bad(message: str) -> Callable[[Spoil], Spoil]:
    """Registers a way to write a bad file, and what the first line or evidence must say."""

    def register(spoil: Spoil) -> Spoil:
        BAD[spoil.__name__] = (spoil, message)
        return spoil

    return register


class Runs:
    """Pickled, this runs a command when unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def header_file(path: Path, header: object, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def tensor(shape: list, begin: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def changed(path: Path, change: Callable[[dict], dict]) -> None:
    write_safetensors(path, change(state()))


# Code in pickles
@bad("posix.system" if os.name == "posix" else "nt.system")
def malicious_pickle(path):
    write_pickle(path, {"model": Runs(f"touch {path.parent / 'owned'}"), "__author__": "x"})


@bad("it asks to run code")
def malicious_pickle_of_protocol_0(path):
    write_pickle(path, {"model": Runs(f"touch {path.parent / 'owned'}")}, 0)


@bad("it asks to run code")
def malicious_torch_zip(path):
    write_torch(path, {"model": Runs(f"touch {path.parent / 'owned'}")})


@bad("it asks to run code")
def malicious_legacy_torch(path):
    content = {"model": Runs(f"touch {path.parent / 'owned'}")}
    write_torch(path, content, _use_new_zipfile_serialization=False)


@bad("it asks to run code")
def malicious_beside_good_weights(path):
    write_torch(path, {"model": as_torch(state()), "hook": Runs(f"touch {path.parent / 'owned'}")})


@bad("its model is an object of torch.nn.modules.linear.Linear")
def module_instead_of_weights(path):
    import torch

    write_torch(path, {"model": torch.nn.Linear(2, 3)})


# Truncated, empty, flipped
@bad("is empty")
def empty_file(path):
    path.write_bytes(b"")


def truncated(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@bad("is damaged")
def truncated_safetensors(path):
    changed(path, lambda t: t)
    truncated(path, 0.7)


@bad("is damaged")
def truncated_safetensors_header(path):
    changed(path, lambda t: t)
    path.write_bytes(path.read_bytes()[:500])


@bad("is damaged")
def truncated_pickle(path):
    write_pickle(path, {"model": state(), "__author__": "x"})
    truncated(path, 0.6)


@bad("is damaged")
def truncated_torch_zip(path):
    write_torch(path, as_torch(state()))
    truncated(path, 0.8)


@bad("is damaged")
def truncated_legacy_torch(path):
    write_torch(path, as_torch(state()), _use_new_zipfile_serialization=False)
    truncated(path, 0.8)


@bad("the checksum of the")
def flipped_bit_in_the_data_of_a_torch_zip(path):
    write_torch(path, as_torch(state()))
    flip_bit(path, path.stat().st_size // 2)


@bad("its header cannot be read as JSON")
def flipped_bit_in_the_header_of_safetensors(path):
    changed(path, lambda t: t)
    flip_bit(path, 60, 7)


@bad("is damaged")
def flipped_bit_in_the_length_of_safetensors(path):
    changed(path, lambda t: t)
    flip_bit(path, 2, 5)


@bad("its md5 begins with")
def flipped_bit_under_a_published_name(path):
    changed(path, lambda t: t)
    flip_bit(path, -40, 1)
    path.rename(path.with_name("model_final_6f60dc.pkl"))


# Safetensors headers
@bad("its header claims 10,737,418,240 bytes")
def header_of_10_gb(path):
    path.write_bytes(struct.pack("<Q", 10 << 30) + b'{"a":1}')


@bad("the key 'backbone.norm0.weight' is there twice")
def duplicate_key_in_safetensors(path):
    entry = json.dumps(tensor([1], 0, 4))
    header_file(path, f'{{"{ONE}":{entry},"{ONE}":{entry}}}'.encode(), b"\0" * 4)


@bad("its header cannot be read as JSON")
def header_that_is_no_json(path):
    header_file(path, b"{not json at all}")


@bad("its header cannot be read as JSON")
def header_nested_without_end(path):
    header_file(path, b'{"a":' + b"[" * 90_000 + b"}")


@bad("begins at 8, not at 4")
def hole_in_the_data(path):
    header_file(path, {"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, b"\0" * 12)


@bad("begins at 0, not at 4")
def overlapping_tensors(path):
    header_file(path, {"a": tensor([1], 0, 4), "b": tensor([2], 0, 8)}, b"\0" * 8)


@bad("takes 8 bytes, 4 are there")
def shape_larger_than_its_data(path):
    header_file(path, {"a": tensor([2], 0, 4)}, b"\0" * 4)


@bad("4 bytes at its end belong to no tensor")
def bytes_after_the_last_tensor(path):
    header_file(path, {"a": tensor([1], 0, 4)}, b"\0" * 8)


@bad("a shape or place [-1, 0, 4]")
def negative_shape(path):
    header_file(path, {"a": tensor([-1], 0, 4)}, b"\0" * 4)


@bad("as 'F8_E4M3'")
def unknown_type(path):
    header_file(path, {"a": tensor([4], 0, 4, "F8_E4M3")}, b"\0" * 4)


@bad("describes 'a' incompletely")
def entry_without_a_place(path):
    header_file(path, {"a": {"dtype": "F32", "shape": [1]}}, b"\0" * 4)


@bad("holds no model")
def safetensors_without_tensors(path):
    header_file(path, {})


# Duplicates elsewhere
@bad("the key 'a' is there twice")
def duplicate_key_in_a_pickle(path):
    path.write_bytes(b"\x80\x04}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u.")


@bad("is there twice")
def duplicate_member_in_a_torch_zip(path):
    write_torch(path, as_torch(state()))
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(path, "a") as archive,
    ):
        archive.writestr(f"{path.name.split('.')[0]}/data/0", b"other")


# Wrong content
@bad("does not fit small")
def wrong_model(path):
    write_torch(path, {"model": as_torch({"conv.weight": np.zeros((2, 2), np.float32)})})


@bad("1 missing: backbone.norm0.weight [12]")
def missing_tensor(path):
    changed(path, lambda t: {name: array for name, array in t.items() if name != ONE})


@bad("1 unexpected: extra.weight [2]")
def unexpected_tensor(path):
    changed(path, lambda t: t | {"extra.weight": np.zeros(2, np.float32)})


@bad("1 of another shape: backbone.norm0.weight is [13], expected [12]")
def tensor_of_another_shape(path):
    changed(path, lambda t: t | {ONE: np.zeros(13, np.float32)})


@bad("2 of another shape")
def two_tensors_swapped(path):
    changed(path, lambda t: t | {ONE: t[TWO], TWO: t[ONE]})


@bad("backbone.norm0.weight is float16, expected float32")
def half_precision(path):
    changed(path, lambda t: t | {ONE: t[ONE].astype(np.float16)})


@bad("backbone.norm0.weight is float64, expected float32")
def double_precision(path):
    changed(path, lambda t: t | {ONE: t[ONE].astype(np.float64)})


@bad("backbone.norm0.weight is int64, expected float32")
def integers_for_weights(path):
    changed(path, lambda t: t | {ONE: t[ONE].astype(np.int64)})


@bad("holds 1 values that are NaN or infinite")
def nan(path):
    changed(path, lambda t: t | {ONE: np.where(np.arange(12) == 4, np.nan, t[ONE]).astype("f4")})


@bad("holds 12 values that are NaN or infinite")
def infinity(path):
    changed(path, lambda t: t | {ONE: np.full(12, np.inf, np.float32)})


@bad("another value than the configuration's: criterion.empty_weight")
def other_class_weights(path):
    changed(path, lambda t: t | {"criterion.empty_weight": np.ones(4, np.float32)})


@bad("another value than the configuration's: pixel_mean")
def other_pixel_mean(path):
    changed(path, lambda t: t | {"pixel_mean": np.zeros((3, 1, 1), np.float32)})


@bad("holds no model")
def pickle_of_something_else(path):
    write_pickle(path, {"a": 1, "b": "text"})


@bad("a pickle of a list")
def pickle_of_a_list(path):
    write_pickle(path, [1, 2, 3])


@bad("is a Caffe2 model")
def caffe2_model(path):
    write_pickle(path, {"blobs": {"conv1_w": np.zeros((64, 3, 7, 7), np.float32)}})


@bad("is a Caffe2 model")
def caffe2_backbone(path):
    names = ("conv1_w", "res_conv1_bn_s", "res_conv1_bn_b")
    write_pickle(path, {name: np.zeros(64, np.float32) for name in names})


@bad("holds no model")
def pickle_of_objects_in_an_array(path):
    write_pickle(path, {"model": {ONE: np.array([{}, []], dtype=object)}})


@bad("holds no model")
def array_of_records(path):
    write_pickle(path, {"model": {ONE: np.zeros(2, [("a", "f4"), ("b", "i4")])}})


@bad("has 3 bytes")
def array_with_too_little_data(path):
    raw = pickle.dumps({"model": {ONE: np.zeros(4, np.uint8)}}, 4)
    path.write_bytes(raw.replace(b"C\x04\0\0\0\0", b"C\x03\0\0\0"))


# Other kinds of file
@bad("is a web page")
def web_page(path):
    path.write_text("<!DOCTYPE html><html><body>404</body></html>")


@bad("is a Git LFS pointer")
def lfs_pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


@bad("is a Keras HDF5 file")
def keras_file(path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)


@bad("is no checkpoint of a known kind")
def plain_text(path):
    path.write_text("weights, more or less")


@bad("is a zip archive, but not a torch checkpoint")
def zip_of_something_else(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")


@bad("is compressed or encrypted")
def compressed_zip(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))


@bad("is a TorchScript program")
def torchscript_program(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/code/__torch__.py", "import os")


@bad("is a gzip archive")
def gzip_archive(path):
    path.write_bytes(b"\x1f\x8b" + b"\0" * 50)


@bad("is a folder without a checkpoint")
def empty_folder(path):
    path.mkdir()


@bad("model of type 'bert'")
def library_folder_of_another_model(path):
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "bert"}')


@bad("has a config.json but no weights")
def library_folder_without_weights(path):
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "maskformer"}')


@bad("cannot be read as JSON")
def library_folder_with_a_broken_config(path):
    path.mkdir()
    (path / "config.json").write_text("{")


@bad("it names files outside its folder")
def library_index_that_points_elsewhere(path):
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "maskformer"}')
    index = {"weight_map": {"a": "../../etc/passwd"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


@bad("does not exist")
def nothing_at_all(path):
    assert not path.exists()


@bad("is damaged")
def tf_index_of_garbage(path):
    path.mkdir()
    (path / "ckpt.index").write_bytes(b"\x07garbage" * 20)


def tf_checkpoint(path: Path) -> None:
    good = write_safetensors(path.parent / "good", state())
    convert(good, path, "tf", CONFIG)
    good.unlink()


@bad("is damaged")
def tf_checkpoint_with_a_flipped_bit(path):
    tf_checkpoint(path)
    flip_bit(path / "ckpt.data-00000-of-00002", 100_000)


@bad("is damaged")
def tf_checkpoint_without_its_data(path):
    tf_checkpoint(path)
    (path / "ckpt.data-00000-of-00002").unlink()


@bad("holds 2 checkpoints")
def two_tf_checkpoints(path):
    path.mkdir()
    for name in ("a", "b"):
        (path / f"{name}.index").write_bytes(b"x")


def test_there_are_many_bad_files() -> None:
    assert len(BAD) >= 40


@pytest.mark.parametrize("name", BAD)
def test_bad_file_gives_one_clear_error_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    spoil, message = BAD[name]
    spoil(tmp_path / "file.any")
    before = sorted(tmp_path.rglob("*"))
    given = next(iter(tmp_path.glob("model_final_*")), tmp_path / "file.any")
    with pytest.raises(InputError) as caught:
        convert(given, tmp_path / "out.safetensors", "safetensors", CONFIG)
    text = str(caught.value)
    assert message in text, text
    assert len(text.splitlines()) <= 5, text
    assert sorted(tmp_path.rglob("*")) == before, "a file was written"
