"""`parity audit` from the outside: its JSON, its exit status, and what it says to bad input."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from maskformer.data.images import read_image
from maskformer.model import zoo
from replication.sides.weights import load_weights

SMALL = ("--config", "tiny", "--weights", "seeded:5", "--execution", "eager")


@pytest.mark.parametrize(
    "words",
    [
        ("--execution", "eager"),
        ("--execution", "bfloat16,eager", "--isolate"),
        ("--execution", "bfloat16", "--only", "sem_seg_head.pixel_decoder"),
    ],
)
def test_audit_announces_as_many_steps_as_it_takes(parity, words):
    _, _, err = parity("audit", "--config", "tiny", "--size", "64x96", *words)
    numbers = re.findall(r"\[(\d+)/(\d+)\]", err)
    assert [int(one) for one, _ in numbers] == list(range(1, len(numbers) + 1))
    assert {total for _, total in numbers} == {str(len(numbers))}


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("--short-side", "32"), "--short-side has no effect without --images"),
        (("--images", "a.png", "--size", "32x32"), "--size has no effect beside --images"),
        (("--images", "a.png", "--batch", "2"), "--batch has no effect beside --images"),
    ],
)
def test_audit_refuses_options_that_its_images_do_not_follow(parity, words, fact):
    status, out, err = parity("audit", "--config", "tiny", *words)
    assert (status, out) == (2, "")
    assert fact in err
    assert len(err[err.index("parity: ") :].splitlines()) == 3


def test_audit_json_says_equal(parity, tmp_path):
    status, out, _ = parity(
        "audit", *SMALL, "--size", "70x90,48x66", "--json", "--out", tmp_path / "out"
    )
    result = json.loads(out)
    assert status == 0
    assert result["verdict"] == "equal"
    assert result["taps"] >= 250
    assert result["unpaired"] == {"reference": [], "port": []}
    assert result["first_divergence"] is None
    assert result["localisation"] is None
    assert [one["size"] for one in result["inputs"]] == ["70x90", "48x66"]
    assert not any("padded" in text for text in result["not_verified"])
    assert 0 < result["float64"]["worst_gap"] < result["float64"]["limit"] < 1e-9
    assert 0 < result["float32"]["eager"]["worst_ratio"] < result["float32"]["eager"]["limit"]
    assert {claim["verdict"] for claim in result["claims"]} == {"holds"}
    assert result["provenance"]["config"] == "tiny"
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"audit.json", "report.html", "report.md"} <= written
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == result


def test_audit_names_a_planted_fault(parity, another_epsilon):
    """The twin: one layer norm with another epsilon makes the verdict "different", by name."""
    path = another_epsilon(0, "norm3")
    status, out, _ = parity("audit", *SMALL, "--size", "64x96", "--json")
    result = json.loads(out)
    assert status == 1
    assert result["verdict"] == "different"
    assert result["localisation"]["path"] == path
    assert result["localisation"]["kind"] == "own"
    assert result["first_divergence"] == path


def test_audit_only_keeps_one_module(parity):
    path = "sem_seg_head.pixel_decoder"
    status, out, _ = parity("audit", *SMALL, "--size", "64x96", "--only", path, "--json")
    result = json.loads(out)
    assert status == 0
    assert {layer["stage"] for layer in result["layers"]} == {"pixel_decoder"}


@pytest.fixture(scope="module")
def checkpoint():
    """The state dict of `tiny`, as numpy arrays."""
    return dict(load_weights("seeded:5", zoo.model_config("tiny")).state)


def broken(state, how):
    key = "backbone.res3.0.conv2.weight"
    other = "sem_seg_head.predictor.class_embed.bias"
    if how == "missing":
        return {k: v for k, v in state.items() if k not in (key, other)}
    if how == "unexpected":
        return {**state, "backbone.res6.0.conv1.weight": state[key]}
    if how == "shape":
        return {**state, key: state[key][:, :, :, :2].copy()}
    wrong = state[key].copy()
    wrong[0, 0, 0, 0] = np.nan
    return {**state, key: wrong}


@pytest.mark.parametrize("how", ["missing", "unexpected", "shape", "nan"])
def test_audit_refuses_weights_that_do_not_fit(parity, tmp_path, checkpoint, how):
    path = tmp_path / "weights.safetensors"
    save_file(broken(checkpoint, how), path)
    out_dir = tmp_path / "out"
    status, out, err = parity(
        "audit", "--config", "tiny", "--weights", path, "--size", "64x96", "--out", out_dir
    )
    assert status == 2
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("[")]
    assert lines[0].startswith("parity: ")
    assert "Traceback" not in err
    names = {"unexpected": ["backbone.res6.0.conv1.weight"], "missing": ["class_embed.bias"]}
    for name in ["backbone.res3.0.conv2.weight"] if how in ("shape", "nan") else names[how]:
        assert name in err
    assert not out_dir.exists()


def test_a_port_with_a_checkpoint_of_its_own_is_compared_with_the_reference_s(
    parity, tmp_path, checkpoint
):
    source, sound, damaged = (tmp_path / f"{name}.safetensors" for name in ("a", "b", "c"))
    key = "backbone.res3.0.conv2.weight"
    changed = checkpoint[key].copy()
    changed[3, 1, 0, 2] += 1e-3
    for path, state in ((source, checkpoint), (sound, checkpoint)):
        save_file(state, path)
    save_file({**checkpoint, key: changed}, damaged)
    words = ("--config", "tiny", "--weights", source, "--size", "64x96", "--execution", "eager")
    status, out, _ = parity("audit", *words, "--port-weights", sound, "--json")
    result = json.loads(out)
    assert (status, result["verdict"]) == (0, "equal")
    assert result["provenance"]["port_weights"] == str(sound)
    folder = tmp_path / "out"
    status, out, _ = parity("audit", *words, "--port-weights", damaged, "--json", "--out", folder)
    result = json.loads(out)
    claims = {one["id"]: one for one in result["claims"]}
    assert (status, result["verdict"]) == (1, "different")
    assert claims["weights"]["measured"]["found"] == [key]
    assert claims["weights"]["place"] == key
    assert [one["path"] for one in result["localisations"]] == ["backbone.res3.0.conv2"]
    report = json.loads((folder / "report.json").read_text())
    assert report["answer"].startswith("No: ")
    assert key in report["answer"]
    sentence = report["story"]["sentence"]
    assert sentence.startswith("`backbone.res3.0.conv2` computes another function: weight has")
    assert len(report["story"]["places"]) == 1  # the weight is in that place


def write(path, content):
    path.write_bytes(content)
    return path


def jpeg(tmp_path, size=(90, 70)):
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)).save(path)
    return path


BAD = {
    "unknown config": (["--config", "coco_r5O"], "coco_r50"),
    "no seed": (["--weights", "seeded:x"], "seeded:N"),
    "no such weights": (["--weights", "absent.pth"], "absent.pth"),
    "size below the stride": (["--size", "16x96"], "32"),
    "size of zero": (["--size", "0x96"], "32"),
    "no size": (["--size", "big"], "HxW"),
    "no batch": (["--batch", "0"], "at least 1"),
    "unknown execution": (["--execution", "eager,fast"], "graph"),
    "unknown reference": (["--reference", "paper"], "builtin"),
    "original is not installed": (["--reference", "original"], "detectron2"),
    "nothing selected": (["--only", "backbone.res9"], "backbone.res9"),
}


@pytest.mark.parametrize("case", BAD)
def test_audit_bad_options_give_one_clear_error(parity, tmp_path, case, monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    words, expected = BAD[case]
    defaults = {"--config": "tiny", "--weights": "seeded:5", "--execution": "eager"}
    defaults["--size"] = "64x96"
    options = {**defaults, **dict(zip(words[::2], words[1::2], strict=True))}
    out_dir = tmp_path / "out"
    status, out, err = parity(
        "audit", *(word for pair in options.items() for word in pair), "--out", out_dir
    )
    assert (status, out) == (2, "")
    assert "parity: " in err
    assert expected in err
    assert "Traceback" not in err
    assert not out_dir.exists()


def test_modules_that_run_alone_need_the_tensors_around_them(parity):
    status, out, err = parity("audit", *SMALL, "--only", "backbone", "--isolate")
    assert (status, out) == (2, "")
    assert "--isolate does not go with --only" in err


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "too small"])
def test_audit_bad_images_give_one_clear_error(parity, tmp_path, kind):
    good = jpeg(tmp_path)
    path = {
        "missing": lambda: tmp_path / "absent.jpg",
        "empty": lambda: write(tmp_path / "empty.jpg", b""),
        "text": lambda: write(tmp_path / "text.jpg", b"no image"),
        "truncated": lambda: write(tmp_path / "cut.jpg", good.read_bytes()[:400]),
        "too small": lambda: jpeg(tmp_path, (20, 90)),
    }[kind]()
    status, out, err = parity("audit", *SMALL, "--images", path)
    assert (status, out) == (2, "")
    assert err.splitlines()[0].startswith("parity: ")
    assert "Traceback" not in err


def test_read_image_handles_grey_alpha_palette_and_rotation(tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (40, 50), np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, axis=2)
    )
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey16.png")[..., 1], grey)
    colour = rng.integers(0, 255, (40, 50, 4), np.uint8)
    Image.fromarray(colour, "RGBA").save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), colour[..., :3])
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").shape == (40, 50, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left of upright
    Image.fromarray(colour[..., :3]).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(
        read_image(tmp_path / "turned.png"), np.rot90(colour[..., :3], -1)
    )


def test_weights_in_a_file_and_several_images_are_audited(parity, tmp_path, checkpoint):
    path = tmp_path / "weights.safetensors"
    save_file(checkpoint, path)
    first, second = jpeg(tmp_path), Path(tmp_path / "second.png")
    Image.fromarray(np.full((64, 96), 90, np.uint8)).save(second)
    words = ("--config", "tiny", "--weights", path, "--execution", "graph")
    status, out, _ = parity("audit", *words, "--json", "--images", first, second)
    result = json.loads(out)
    assert status == 0
    assert [one["size"] for one in result["inputs"]] == ["90x70", "64x96"]
    assert (
        result["provenance"]["weights_sha256"]
        == load_weights("seeded:5", zoo.model_config("tiny")).sha256
    )
