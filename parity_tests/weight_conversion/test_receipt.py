"""A receipt holds, and any change to either checkpoint or to itself is caught and named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from parity.errors import InputError
from parity.records import plain
from parity_tests.weight_conversion.samples import CONFIG, flip_bit, state, write_safetensors
from replication.commands import convert as convert_verb
from replication.commands import inspect as inspect_verb
from weight_conversion.convert import convert
from weight_conversion.receipt import receipt_path
from weight_conversion.verification import verify

TARGETS = {"tf": "tf", "hf": "hf", "torch": "a.pth", "safetensors": "a.safetensors"}
DATA = {
    "tf": "tf/ckpt.data-00000-of-00002",
    "hf": "hf/model.safetensors",
    "torch": "a.pth",
    "safetensors": "a.safetensors",
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """Every target once, converted from one source."""
    folder = tmp_path_factory.mktemp("originals")
    write_safetensors(folder / "source.safetensors", state())
    for to, name in TARGETS.items():
        convert(folder / "source.safetensors", folder / name, to, CONFIG)
    return folder


@pytest.fixture
def copy(originals, tmp_path) -> Path:
    """The same files in a new place, free to spoil."""
    return Path(shutil.copytree(originals, tmp_path / "copy"))


def problems(folder: Path, to: str) -> list[str]:
    return verify(receipt_path(folder / TARGETS[to], to))


@pytest.mark.parametrize("to", TARGETS)
def test_receipt_holds_and_moves_with_its_files(to, copy) -> None:
    assert problems(copy, to) == []


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("where", [0.3, 0.5, 0.99])
def test_a_flipped_bit_in_the_target_is_caught(to, where, copy) -> None:
    file = copy / DATA[to]
    flip_bit(file, int(file.stat().st_size * where))
    found = problems(copy, to)
    assert any(file.name in problem for problem in found), found


@pytest.mark.parametrize("where", [0.02, 0.3, 0.99])
def test_a_flipped_bit_in_the_source_is_caught(where, copy) -> None:
    file = copy / "source.safetensors"
    flip_bit(file, int(file.stat().st_size * where))
    assert "source: source.safetensors differs in sha256" in problems(copy, "safetensors")


def rewritten(copy: Path, change, forge: bool) -> list[str]:
    """Problems after `change` to the target's tensors; `forge` also corrects the file's hash."""
    from weight_conversion.digests import digests_of_files

    tensors = state()
    write_safetensors(copy / "a.safetensors", change(tensors))
    path = receipt_path(copy / "a.safetensors", "safetensors")
    if forge:
        receipt = json.loads(path.read_text())
        receipt["target"]["files"] = plain(digests_of_files([copy / "a.safetensors"]))
        path.write_text(json.dumps(receipt))
    return verify(path)


ONE, TWO = "backbone.norm0.weight", "backbone.norm0.bias"


def swapped(tensors: dict) -> dict:
    return tensors | {ONE: tensors[TWO], TWO: tensors[ONE]}


def renamed(tensors: dict) -> dict:
    return {("backbone.norm9.weight" if k == ONE else k): v for k, v in tensors.items()}


def negated(tensors: dict) -> dict:
    return tensors | {ONE: -tensors[ONE]}


def reshaped(tensors: dict) -> dict:
    return tensors | {ONE: tensors[ONE].reshape(2, -1)}


def added(tensors: dict) -> dict:
    return tensors | {"more": np.zeros(2, np.float32)}


CHANGES = {
    swapped: [f"{ONE}: has other values in the target", f"{TWO}: has other values in the target"],
    renamed: [f"{ONE}: missing in the target", "backbone.norm9.weight: unexpected in the target"],
    negated: [f"{ONE}: has other values in the target"],
    reshaped: [f"{ONE}: has another shape or type in the target"],
    added: ["more: unexpected in the target"],
}


@pytest.mark.parametrize("forge", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_tensor_is_named_even_with_a_forged_file_hash(change, forge, copy) -> None:
    found = rewritten(copy, change, forge)
    assert set(CHANGES[change]) <= set(found), found
    assert forge != any("sha256" in problem for problem in found)


def test_a_forged_receipt_without_a_change_still_holds(copy) -> None:
    assert rewritten(copy, lambda tensors: tensors, forge=True) == []


EDITS = {
    "a hash": lambda r: r["tensors"][5]["targets"][0].update(sha256="0" * 64),
    "a rule": lambda r: r["tensors"][5].update(rule="bicubic"),
    "a name": lambda r: r["tensors"][5].update(name="backbone.other"),
    "two entries": lambda r: r["tensors"].reverse(),
    "a missing entry": lambda r: r["tensors"].pop(),
    "the configuration": lambda r: r["config"].update(num_classes=4),
    "the digest": lambda r: r["config"].update(digest="0"),
    "the code": lambda r: r["code"].update(version="9"),
    "the source's hash": lambda r: r["source"]["files"][0].update(sha256="0"),
    "the target's size": lambda r: r["target"]["files"][0].update(size=1),
    "what was left out": lambda r: r["source"]["left_out"].update(a="b"),
    "the options": lambda r: r["options"].update(dtype="float64"),
    "the target": lambda r: r["target"].update(path="source.safetensors"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_receipt_is_caught(edit, copy) -> None:
    path = receipt_path(copy / "a.safetensors", "safetensors")
    receipt = json.loads(path.read_text())
    EDITS[edit](receipt)
    path.write_text(json.dumps(receipt))
    if edit == "the target":  # the source has the same bytes, under another name
        assert any("is missing" in problem for problem in verify(path)) or verify(path) == []
        return
    assert verify(path), f"the receipt holds with {edit} edited, but should not"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"format": 1}'])
def test_what_is_no_receipt_is_refused(text, tmp_path) -> None:
    (tmp_path / "receipt.json").write_text(text)
    with pytest.raises(InputError):
        verify(tmp_path / "receipt.json")


def test_a_missing_file_is_named(copy) -> None:
    (copy / "a.pth").unlink()
    assert problems(copy, "torch") == ["target: a.pth is missing"]


@pytest.fixture(scope="module")
def run():
    app = typer.Typer()
    for verb in (convert_verb, inspect_verb):
        verb.register(app)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_commands_convert_verify_and_inspect(run, copy) -> None:
    target = copy / "hf" / "model.safetensors"
    receipt = receipt_path(copy / "a.pth", "torch")
    assert run("convert", "--verify", receipt).exit_code == 0
    flip_bit(copy / "a.pth", -400_000)
    result = run("convert", "--verify", receipt, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["verdict"] == "different"
    found = json.loads(run("inspect", target, "--json").stdout)
    assert found["naming"] == "hugging_face"
    assert found["fits"] == []
    assert found["problems"] == [
        "no configuration of the zoo fits; give its own with --config-file"
    ]
    assert "no config of the zoo" in run("inspect", target).stdout
    result = run("convert", copy / "source.safetensors", copy / "b.pth", "--to", "torch")
    assert isinstance(result.exception, InputError)
    assert "no config of the zoo fits" in str(result.exception)


def test_inspect_reports_values_that_are_not_finite(run, tmp_path) -> None:
    tensors = state()
    tensors[ONE][2] = np.inf
    path = write_safetensors(tmp_path / "a.safetensors", tensors)
    found = json.loads(run("inspect", path, "--json").stdout)
    assert f"{ONE} has 1 values that are NaN or infinite" in found["problems"]
