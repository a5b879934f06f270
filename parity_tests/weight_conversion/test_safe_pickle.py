"""Pickles are read to the letter, and nothing in them is ever run."""

import collections
import contextlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from parity.errors import InputError
from parity_tests.weight_conversion.samples import write_pickle, write_torch
from weight_conversion import safe_pickle
from weight_conversion.stand_ins import Inert
from weight_conversion.stored import OpenFile, StoredTensor

PROTOCOLS = range(6)
DTYPES = st.sampled_from(["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u2", "?", ">f4", ">i8"])


def loaded(value: object) -> object:
    if isinstance(value, StoredTensor):
        return value.load()
    if isinstance(value, dict):
        return {key: loaded(item) for key, item in value.items()}
    return (
        type(value)(loaded(item) for item in value) if isinstance(value, (list, tuple)) else value
    )


def read(path: Path) -> object:
    with OpenFile(path) as file:
        return loaded(safe_pickle.load(file.region))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_load_reads_what_pickle_wrote(protocol: int, tmp_path: Path) -> None:
    content = {
        "text": "ü" * 3000,
        "numbers": [0, -1, 70000, 2**40, -(2**200), 0.1, True, False, None],
        "sets": ({1, 2}, frozenset(("a",))),
        "bytes": b"\x00\xff" * 700,
        "ordered": collections.OrderedDict(a=(1,), b=()),
        "scalar": np.float32(0.3),
        3: "key",
    }
    assert read(write_pickle(tmp_path / "a.pkl", content, protocol)) == content


@given(
    array=DTYPES.flatmap(
        lambda d: nps.arrays(d, nps.array_shapes(min_dims=0, min_side=0, max_side=9))
    ),
    protocol=st.sampled_from(PROTOCOLS),
    fortran=st.booleans(),
)
def test_arrays_come_back_bit_for_bit(tmp_path_factory, array, protocol, fortran) -> None:
    path = tmp_path_factory.mktemp("pickle") / "a.pkl"
    given_array = np.asfortranarray(array) if fortran and array.ndim else array
    back = read(write_pickle(path, {"a": given_array}, protocol))["a"]
    assert back.dtype == array.dtype.newbyteorder("<")
    assert back.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
    assert back.shape == array.shape


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_tensors_inside_a_plain_pickle_are_read(legacy: bool, tmp_path: Path) -> None:
    import torch

    base = torch.arange(24, dtype=torch.float32)
    content = {
        "plain": base.reshape(4, 6),
        "transposed": base.reshape(4, 6).t(),
        "slice": base[5:11],
        "half": base.half(),
        "brain": base.bfloat16(),
        "parameter": torch.nn.Parameter(base),
        "none": torch.zeros(0, 3),
        "whole": torch.tensor(7),
    }
    path = tmp_path / "a.pkl"
    if legacy:
        write_torch(path, content, _use_new_zipfile_serialization=False)
        with OpenFile(path) as file:
            back = loaded(safe_pickle.load_legacy_torch(file.region))
    else:
        back = read(write_pickle(path, content))
    for name, tensor in content.items():
        wanted = tensor.detach().float().numpy()
        np.testing.assert_array_equal(back[name].astype(np.float32), wanted, err_msg=name)


class Runs:
    """Pickled, this runs a command when unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


class Instance:
    """An object of a class, which only building it could bring back."""


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, open, __import__])
def test_a_pickle_that_runs_code_is_refused_by_name(function, protocol, tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    argument = f"touch {owned}" if function is os.system else f"open({str(owned)!r}, 'w')"
    path = write_pickle(tmp_path / "a.pkl", {"model": Runs(function, argument)}, protocol)
    with pytest.raises(InputError) as caught:
        read(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path} is refused: it asks to run code"
    assert function.__name__ in lines[1]
    assert not owned.exists(), "the pickle ran"


def test_the_planted_pickle_does_run_when_trusted(tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    path = write_pickle(tmp_path / "a.pkl", Runs(os.system, f"touch {owned}"))
    pickle.loads(path.read_bytes())
    assert owned.exists(), "the planted pickle is harmless, so refusing it proves nothing"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_instances_of_classes_are_inert(protocol: int, tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "a.pkl", {"made by": Instance(), "w": np.ones(3)}, protocol)
    found = read(path)
    assert found["made by"] == Inert(f"{__name__}.Instance")
    np.testing.assert_array_equal(found["w"], np.ones(3))


def test_every_refused_name_is_listed(tmp_path: Path) -> None:
    content = [Runs(os.system, "true"), Runs(eval, "1"), Runs(os.system, "true")]
    with pytest.raises(InputError) as caught:
        read(write_pickle(tmp_path / "a.pkl", content))
    assert f"{os.system.__module__}.system, builtins.eval" in str(caught.value)


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused_but_never_crash(tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("pickle") / "a.pkl"
    path.write_bytes(b"\x80\x04" + data)
    with contextlib.suppress(InputError):
        read(path)


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_never_crashes_the_reader(tmp_path_factory, position, bit) -> None:
    path = tmp_path_factory.mktemp("pickle") / "a.pkl"
    content = {"model": {f"layer{i}.weight": np.arange(i, dtype="f4") for i in range(20)}}
    raw = bytearray(pickle.dumps(content, 4))
    raw[position % len(raw)] ^= 1 << bit
    path.write_bytes(raw)
    with contextlib.suppress(InputError):
        read(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x80\x04X\xff\xff\xff\xff", "a string claims 4,294,967,295 bytes"),
        (b"\x80\x04\x8e" + b"\xff" * 8, "a string claims 18,446,744,073,709,551,615 bytes"),
        (b"\x80\x04\x8b\xff\xff\xff\x7f", "a number claims 2,147,483,647 bytes"),
        (b"\x80\x04Nr\xff\xff\xff\xff.", None),
        (b"\x80\x04h\x05.", "refers to a value 5 that is not there"),
        (b"\x80\x04}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u.", "'a' is there twice"),
        (b"\x80\x04N", "are there"),
        (b"\x80\x04.", "inconsistent"),
        (b"\x80\x04\x82\x01.", "no admitted pickle instruction"),
    ],
)
def test_hostile_sizes_and_references_are_refused(raw, message, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(raw)
    if message is None:  # a huge memo number, which costs Python's own reader 64 GB
        assert read(path) is None
        return
    with pytest.raises(InputError, match=message):
        read(path)
