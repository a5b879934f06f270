"""What this package's own readers and writers get wrong alike, other programs' readers see."""

import dataclasses

import numpy as np
import pytest

from parity_tests.weight_conversion.samples import (
    CONFIG,
    as_torch,
    state,
    write_pickle,
    write_safetensors,
    write_torch,
)
from weight_conversion import convert as converting
from weight_conversion import second_reading, verification
from weight_conversion.convert import convert
from weight_conversion.receipt import receipt_path
from weight_conversion.verification import verify

SOURCES = {
    "a.safetensors": lambda path: write_safetensors(path, state()),
    "a.pth": lambda path: write_torch(path, {"model": as_torch(state()), "iteration": 7}),
    "a.pkl": lambda path: write_pickle(path, {"model": state(), "__author__": "x"}),
}
TARGETS = {"tf": "tf", "hf": "hf", "torch": "b.pkl", "safetensors": "b.safetensors"}


def half(array: np.ndarray) -> np.ndarray:
    """The values as float16 holds them, in their own type."""
    return array.astype(np.float16).astype(array.dtype) if array.dtype.kind == "f" else array


def converted(folder, source: str, to: str, **options):
    SOURCES[source](folder / source)
    convert(folder / source, folder / TARGETS[to], to, CONFIG, **options)
    return receipt_path(folder / TARGETS[to], to)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("to", TARGETS)
def test_second_reading_agrees_with_a_sound_conversion(source, to, tmp_path) -> None:
    told: list[str] = []
    assert verify(converted(tmp_path, source, to), told.append) == []
    assert told == []


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_second_reading_follows_a_change_of_dtype(dtype, tmp_path) -> None:
    assert verify(converted(tmp_path, "a.pth", "safetensors", dtype=dtype)) == []


def test_second_reading_knows_a_checkpoint_of_tensorflow_as_a_source(tmp_path) -> None:
    converted(tmp_path, "a.safetensors", "tf")
    convert(tmp_path / "tf", tmp_path / "back.pth", "torch", CONFIG)
    told: list[str] = []
    assert verify(receipt_path(tmp_path / "back.pth", "torch"), told.append) == []
    assert told == []


@pytest.mark.parametrize("to", ["tf", "hf"])
def test_second_reading_names_what_is_rounded_while_it_is_laid_out(
    to, tmp_path, monkeypatch
) -> None:
    sound = converting.outputs_of

    def rounding(pair, kind):
        return [
            one
            if one.rule == "same"
            else dataclasses.replace(one, make=lambda array, make=one.make: half(make(array)))
            for one in sound(pair, kind)
        ]

    for module in (converting, verification):
        monkeypatch.setattr(module, "outputs_of", rounding)
    found = verify(converted(tmp_path, "a.safetensors", to))
    assert found
    assert all("other bits than the source's" in one for one in found), found[:3]


def test_second_reading_names_what_is_rounded_while_it_is_read(tmp_path, monkeypatch) -> None:
    sound = converting.open_source

    def rounding(path, choice=None):
        source = sound(path, choice)
        if path.name == "a.pth":
            source.tensors = {
                name: dataclasses.replace(one, load=lambda load=one.load: half(load()))
                if name != "criterion.empty_weight"  # a constant, which the plan checks
                else one
                for name, one in source.tensors.items()
            }
        return source

    for module in (converting, verification):
        monkeypatch.setattr(module, "open_source", rounding)
    found = verify(converted(tmp_path, "a.pth", "safetensors"))
    assert any("finds no tensor of these bits in the source" in one for one in found), found[:3]


def test_second_reading_says_which_reader_is_missing(tmp_path, monkeypatch) -> None:
    receipt = converted(tmp_path, "a.pth", "safetensors")
    monkeypatch.setattr(second_reading.importlib.util, "find_spec", lambda name: None)
    told: list[str] = []
    assert verify(receipt, told.append) == []
    assert told == ["the source was not read a second time: torch is not installed"]


def test_second_reading_refuses_objects_in_a_pickle(tmp_path) -> None:
    write_pickle(tmp_path / "a.pkl", {"model": state(), "when": second_reading.Path("x")})
    convert(tmp_path / "a.pkl", tmp_path / "b.safetensors", "safetensors", CONFIG)
    told: list[str] = []
    assert verify(receipt_path(tmp_path / "b.safetensors", "safetensors"), told.append) == []
    assert "no array" in "".join(told)
