"""The commands on checkpoints: clean JSON, examples, and errors in three lines."""

import json
from pathlib import Path

import pytest

from maskformer.model import zoo
from parity_tests.parity.test_files import leftover
from parity_tests.weight_conversion.samples import CONFIG, state, write_safetensors
from replication import cli
from replication.commands import convert as convert_verb

CHECKED = {
    "schema": "maskformer-replication/conversion-check/1",
    "verdict": "equal",
    "problems": [],
    "notes": [],
}


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Runs `parity` in a new folder with `a.safetensors`; returns exit code, output, errors."""
    write_safetensors(tmp_path / "a.safetensors", state())
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["parity", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capfd.readouterr()

    return run


@pytest.mark.parametrize("verb", ["convert", "inspect", "zoo"])
def test_help_has_an_example(verb, run) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert f"Example: parity {verb} " in out
    assert "--json" in out


LONG = "x" * 240  # a name that a file can have, and its temporary one cannot
ERRORS = {
    "missing file": (
        ("convert", "b.pkl", "out", "--to", "tf"),
        ("b.pkl does not exist", ". holds a.safetensors, folder"),
    ),
    "missing file to inspect": (
        ("inspect", "no/b.pkl"),
        ("no/b.pkl does not exist", "no is no folder"),
    ),
    "folder without a checkpoint": (
        ("convert", "folder", "out", "--to", "tf"),
        ("folder is a folder without a checkpoint", "it holds thesis.txt"),
    ),
    "unwritable destination": (
        ("convert", "a.safetensors", LONG, "--to", "safetensors"),
        (f"{LONG} cannot be written", "File name too long"),
    ),
    "destination nowhere": (
        ("convert", "a.safetensors", "no/out", "--to", "tf"),
        ("the folder no does not exist", "out would be written there"),
    ),
    "existing destination": (
        ("convert", "a.safetensors", "folder", "--to", "tf"),
        ("folder exists and is no earlier result", "it has no receipt.json"),
    ),
    "folder for a file": (
        ("convert", "a.safetensors", "folder", "--to", "safetensors"),
        ("folder is a folder", "--to safetensors writes a file"),
    ),
    "missing receipt": (
        ("convert", "--verify", "receipt.json"),
        ("receipt.json does not exist", "expected: a receipt"),
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error_is_three_lines_and_nothing_is_written(case, run, monkeypatch, tmp_path) -> None:
    words, expected_lines = ERRORS[case]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("dear")
    before = sorted(tmp_path.rglob("*"))
    if words[1] == "a.safetensors":
        monkeypatch.setattr(convert_verb, "_config", lambda *_: CONFIG)
    check_error(run(*words), *expected_lines)
    assert sorted(tmp_path.rglob("*")) == before


def check_error(result: tuple[int, str, str], fact: str, evidence: str) -> None:
    code, out, errors = result
    assert (code, out) == (2, "")
    lines = errors.splitlines()
    assert lines[:2] == [f"parity: {fact}", f"  {evidence}"]
    assert len(lines) == 3, errors
    assert lines[2].startswith("  ")


def test_unknown_config_is_named_with_its_nearest(run) -> None:
    result = run("convert", "a.safetensors", "out", "--to", "tf", "--config", "coco_r5")
    code, _, errors = result
    assert code == 2
    lines = errors.splitlines()
    assert lines[0] == "parity: no config is called 'coco_r5'"
    assert "coco_r50" in lines[1]
    assert len(lines) == 3, errors


def test_library_folder_of_a_config_it_cannot_hold_is_refused(run) -> None:
    words = ("convert", "a.safetensors", "out", "--to", "hf", "--config", "ade20k_pp")
    check_error(
        run(*words),
        "transformers' MaskFormer cannot hold ade20k_pp",
        "it has no place for head PerPixelBaselineHead",
    )


def test_wrong_model_names_what_is_missing_and_what_to_do(run) -> None:
    code, out, errors = run("convert", "a.safetensors", "b.pth", "--to", "torch")
    assert (code, out) == (2, "")
    assert errors.splitlines()[0] == "parity: no config of the zoo fits a.safetensors"
    assert len(errors.splitlines()) == 3, errors


def test_json_is_all_that_is_printed_and_leftovers_are_an_aside(run, monkeypatch) -> None:
    monkeypatch.setattr(convert_verb, "_config", lambda *_: CONFIG)
    left = leftover(Path("b.pth"), 2**22 + 1, "partial")  # above every process number of Linux
    left.write_text("half")
    code, out, errors = run("convert", "a.safetensors", "b.pth", "--to", "torch", "--json")
    assert code == 0
    receipt = json.loads(out)
    assert receipt["receipt"] == "b.pth.receipt.json"
    assert len(receipt["tensors"]) == len(state())
    assert errors == f"removed {left}, left by a killed conversion\n"
    assert not left.exists()
    code, out, errors = run("convert", "--verify", "b.pth.receipt.json", "--json")
    assert (code, json.loads(out), errors) == (
        0,
        CHECKED,
        "",
    )
    code, out, errors = run("inspect", "b.pth", "--json")
    assert (code, errors) == (0, "")
    assert json.loads(out)["kind"] == "torch checkpoint"
    code, out, errors = run("zoo", "--json")
    assert (code, errors) == (0, "")
    assert [entry["name"] for entry in json.loads(out)["entries"]] == list(zoo.ENTRIES)
