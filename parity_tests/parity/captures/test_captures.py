"""A side that was captured alone is judged by NumPy alone, and every edit of it is noticed."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from torch import nn

import parity
from parity.captures import capturing
from parity.captures.judging import judge_captured
from parity.captures.kept import FILE, Capture, read
from parity.captures.stored import StoredTaps, TapWriter
from parity.errors import InputError
from parity.records import json_text, typed
from parity.steps import Steps
from parity.trace import Tap, TraceError

TOKENS = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
QUIET = Steps(quiet=True)
NAMES = {"up": (6, 8), "down": (8, 6)}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, tokens):
        return tokens + self.down(torch.relu(self.up(tokens)))


class Port(tf_keras.Model):
    """The same; `slope` below 0 and `scale` other than 1 are mistakes."""

    def __init__(self, state, slope=0.0, scale=1.0):
        super().__init__()
        self.slope, self.scale = slope, scale
        for name, (_, size) in NAMES.items():
            kernel, bias = state[f"{name}.weight"].T, state[f"{name}.bias"]
            layer = tf_keras.layers.Dense(
                size,
                kernel_initializer=tf_keras.initializers.Constant(kernel),
                bias_initializer=tf_keras.initializers.Constant(bias),
            )
            setattr(self, name, layer)

    def call(self, tokens):
        hidden = tf.nn.leaky_relu(self.up(tokens), self.slope)
        return tokens + self.down(hidden) * self.scale


def made(seed=0, tokens=TOKENS, **mistakes):
    """A pair whose sides are captured alone."""
    torch.manual_seed(seed)
    reference = Block().eval()
    state = {key: value.numpy() for key, value in reference.state_dict().items()}

    def port():
        model = Port(state, **mistakes)
        model.build(tokens.shape)
        return model

    return parity.Pair(reference, port, (tokens,), names=parity.Names())


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """The folders of both sides."""
    folder = tmp_path_factory.mktemp("captured")
    pair = made()
    return tuple(
        parity.capture(pair, side, folder / side, executions=("eager", "xla"), quiet=True)
        for side in ("reference", "port")
    )


def judged(reference, port):
    return judge_captured(reference, port, "parity audit", QUIET)


def test_two_captured_sides_are_judged_as_two_that_run(captured):
    """The same figures to the last digit, of every tensor."""
    apart = judged(*captured)
    together = parity.audit(made(), executions=("eager", "xla"), quiet=True)
    assert apart.verdict == together.verdict == "equal"
    assert [one.key for one in apart.layers] == [one.key for one in together.layers]
    ours, theirs = ([one.float64 for one in result.layers] for result in (apart, together))
    assert ours == theirs
    assert {*apart.float32} == {"eager", "xla"}
    for ours, theirs in zip(apart.layers, together.layers, strict=True):
        assert ours.float32["eager"] == theirs.float32["eager"]


def alone(tmp_path, *sides):
    """Those sides in float64 alone."""
    return {
        side: parity.capture(made(), side, tmp_path / side, precisions=("float64",), quiet=True)
        for side in sides
    }


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        ((), None),
        (("reference",), "no reference was"),
        (("port",), "no port was"),
        (("reference", "port"), "no reference and no port was"),
    ],
)
def test_float32_that_is_not_judged_is_not_verified(captured, tmp_path, sides, words):
    folders = dict(zip(("reference", "port"), captured, strict=True)) | alone(tmp_path, *sides)
    result = judged(**folders)
    assert (result.verdict, bool(result.float32)) == ("equal", not sides)
    told = [text for text in result.not_verified if "float32" in text]
    assert told == ([f"float32, in which {words} captured"] if sides else [])


@pytest.mark.parametrize(
    ("mistake", "path", "kind"),
    [({"slope": 0.1}, "model", "wiring"), ({"scale": 1.001}, "model", "own")],
)
def test_a_mistake_of_a_captured_port_is_found_and_placed(captured, tmp_path, mistake, path, kind):
    port = parity.capture(made(**mistake), "port", tmp_path / "port", quiet=True)
    found = judged(captured[0], port)
    assert found.verdict == "different"
    assert (found.localisation.path, found.localisation.kind) == (path, kind)


def test_judging_needs_numpy_alone(captured):
    """No framework can be imported there, and the verdict is the same."""
    program = (
        "import sys\n"
        "for name in ('torch', 'tensorflow', 'tf_keras', 'jax', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from parity.captures.judging import judge_captured\n"
        "from parity.steps import Steps\n"
        "folders = map(Path, sys.argv[1:])\n"
        "print(judge_captured(*folders, 'parity audit', Steps(quiet=True)).verdict)\n"
    )
    words = [sys.executable, "-c", program, *map(str, captured)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("equal\n", "")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"tokens": TOKENS + 1}, "input"),
        ({"tokens": TOKENS[:1]}, "1x5x6"),
    ],
)
def test_a_wrong_partner_is_refused(captured, tmp_path, other, words):
    port = parity.capture(
        made(**other), "port", tmp_path / "port", precisions=("float64",), quiet=True
    )
    with pytest.raises(InputError) as caught:
        judged(captured[0], port)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[0] == "the captured sides are not of one pair"
    assert words in lines[1]


def edited(folder, tmp_path, change):
    """A copy of a captured side whose record was changed."""
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    content = json.loads((copy / FILE).read_text())
    change(content)
    (copy / FILE).write_text(json_text(content))
    return copy


EDITS = {
    "weights": lambda content: content.update(weights_sha256="0" * 64),
    "version": lambda content: content.update(program="another"),
    "facts": lambda content: content["facts"].update(config="another"),
    "floor": lambda content: content["floors"]["up:output"].update(l2=1.0),
    "order": lambda content: content["runs"][0]["taps"].reverse(),
    "digest": lambda content: content["runs"][0]["taps"][0].update(sha256="0" * 64),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_record_is_noticed(captured, tmp_path, edit):
    copy = edited(captured[0], tmp_path, EDITS[edit])
    with pytest.raises(TraceError, match="was changed after it was written"):
        judged(copy, captured[1])


@pytest.mark.parametrize("edit", ["weights", "version", "facts"])
def test_a_record_whose_digest_was_made_again_is_still_no_partner(captured, tmp_path, edit):
    """Of a reference with other weights, of another version, or of another configuration."""
    copy = edited(captured[1], tmp_path, EDITS[edit])
    content = json.loads((copy / FILE).read_text())
    with pytest.raises(TraceError) as caught:
        read(copy, "port")
    # The message tells only how the digest begins; the whole one is what a reader computes.
    assert "its digest is" in str(caught.value)
    sign(content)
    (copy / FILE).write_text(json_text(content))
    with pytest.raises(InputError, match="not of one pair"):
        judged(captured[0], copy)


def sign(content):
    """Makes the digest of a record again."""
    content["sha256"] = typed(Capture, content).digest


def twice(content):
    content["runs"].append({**content["runs"][0], "execution": "graph"})


def wild(name, value):
    return lambda content: content[name]["up:output"].update(l2=value, max=value)


DAMAGES = {
    "it has 0 runs": lambda content: content.update(runs=[]),
    "it has 2 runs in float64": twice,
    "two runs are of one precision": lambda content: content["runs"].append(content["runs"][0]),
    "a run is in float16": lambda content: content["runs"][0].update(precision="float16"),
    "two taps of": lambda content: content["runs"][0]["taps"].append(content["runs"][0]["taps"][0]),
    "floors lacks model:input": lambda content: content.pop("floors"),
    "errors32 lacks up:output": lambda content: content["errors32"].pop("up:output"),
    "floors32 lacks": lambda content: content.pop("floors32"),
    "errors32 lacks": lambda content: content.pop("errors32"),
    "floors of up:output are no gap: l2 inf": wild("floors", "inf"),
    "floors32 of up:output are no gap: l2 nan": wild("floors32", "nan"),
    "errors32 of up:output are no gap: l2 -1": wild("errors32", -1.0),
    "it says nothing of its weights": lambda content: content.update(weights_sha256=""),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_record_that_lacks_what_is_judged_is_damaged(captured, tmp_path, words):
    """Though its digest was made again."""

    def change(content):
        DAMAGES[words](content)
        sign(content)

    with pytest.raises(TraceError, match="is a damaged capture") as caught:
        judged(edited(captured[0], tmp_path, change), captured[1])
    assert str(caught.value).splitlines()[1].strip().startswith(words)


def test_a_record_of_an_earlier_format_is_refused(captured, tmp_path):
    copy = edited(captured[0], tmp_path, lambda content: content.update(schema="parity/capture/1"))
    with pytest.raises(TraceError, match="a capture of another format"):
        judged(copy, captured[1])


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("side", [0, 1])
def test_an_edited_value_is_noticed(captured, tmp_path, side, place):
    """One bit anywhere in the values of either side."""
    folders = list(captured)
    folders[side] = tmp_path / "edited"
    shutil.copytree(captured[side], folders[side])
    (path,) = folders[side].glob("float64-*.safetensors")
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    raw[start + int(place * (len(raw) - start))] ^= 1
    path.write_bytes(raw)
    with pytest.raises(TraceError, match="its values are not those that were captured"):
        judged(*folders)


@pytest.mark.parametrize("side", [0, 1])
def test_an_edited_dtype_is_noticed(captured, tmp_path, side):
    """Of which the bytes are the same."""
    folders = list(captured)
    folders[side] = tmp_path / "edited"
    shutil.copytree(captured[side], folders[side])
    (path,) = folders[side].glob("float64-*.safetensors")
    path.write_bytes(path.read_bytes().replace(b'"F64"', b'"I64"', 1))
    with pytest.raises(TraceError, match="was changed after it was written"):
        judged(*folders)


@pytest.mark.parametrize("name", [FILE, "float64-eager.safetensors"])
def test_a_pipe_in_place_of_a_file_is_refused(captured, tmp_path, name):
    """Nobody writes to it, so reading it would never end."""
    copy = tmp_path / "piped"
    shutil.copytree(captured[0], copy)
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(TraceError, match="it is a folder, a device or a pipe"):
        judged(copy, captured[1])


@pytest.mark.parametrize("size", [0, 4, 40, 2000])
def test_a_torn_file_is_noticed(captured, tmp_path, size):
    copy = tmp_path / "torn"
    shutil.copytree(captured[0], copy)
    (path,) = copy.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(TraceError):
        judged(copy, captured[1])


def test_sides_that_are_exchanged_are_refused(captured):
    with pytest.raises(TraceError, match="give it as --port-trace"):
        judged(captured[1], captured[0])


def test_other_tools_read_the_taps(captured):
    from safetensors.numpy import load_file

    stored = read(captured[0], "reference").runs[0].stored(captured[0])
    arrays = load_file(captured[0] / "float64-eager.safetensors")
    for entry in stored.entries:
        np.testing.assert_array_equal(arrays[entry.array], stored[entry.key].array)
    assert "up:output" in stored


def test_taps_of_every_kind_come_back(tmp_path):
    """Dtypes, empty and lone numbers, a tensor that is met twice, which is written once."""
    arrays = {
        "lone": np.float64(3.5)[()] * np.ones(()),
        "empty": np.zeros((0, 3), np.float32),
        "flags": np.array([True, False]),
        "counts": np.arange(3),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    with TapWriter(tmp_path / "taps.safetensors") as writer:
        for name, array in arrays.items():
            writer(Tap("a", "output", name, 0, "ABC"[: array.ndim], array))
        writer(Tap("b", "input", "", 0, "AB", arrays["turned"], "a:output.turned"))
    entries = writer.entries
    stored = StoredTaps(tmp_path / "taps.safetensors", entries)
    for name, array in arrays.items():
        found = stored[f"a:output.{name}"].array
        np.testing.assert_array_equal(found, array)
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
    assert entries[-1].array == entries[-2].array
    assert stored["b:input"].same_as == "a:output.turned"


def test_one_key_is_written_once(tmp_path):
    tap = Tap("a", "output", "", 0, "A", np.ones(2))

    def write():
        with TapWriter(tmp_path / "taps.safetensors") as writer:
            writer(tap)
            writer(tap)

    with pytest.raises(TraceError, match="two taps are called a:output"):
        write()
    assert list(tmp_path.iterdir()) == []  # nothing of it is left


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": None}, "names of this pair are found from both models"),
        ({"weights": parity.Weights()}, "moves the reference's weights"),
        ({"reference": None}, "the port's inputs are not known"),
    ],
)
def test_a_side_that_cannot_be_captured_alone_is_refused(tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        parity.capture(replace(made(), **change), "port", tmp_path / "port", quiet=True)
    assert not (tmp_path / "port").exists()


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"side": "both"}, "--side is 'both'"),
        ({"precisions": ("int8",)}, "--precision has 'int8'"),
        ({"precisions": ("float32",)}, "without float64"),
        ({"device": "npu"}, "--device is 'npu'"),
        (
            {"side": "port", "precisions": ("float64",), "device": "tpu"},
            "nothing is captured on a TPU",
        ),
    ],
)
def test_what_cannot_be_asked_for_is_refused(tmp_path, named, words):
    side = named.pop("side", "reference")
    with pytest.raises(InputError, match=words):
        parity.capture(made(), side, tmp_path / "side", quiet=True, **named)


def test_a_capture_is_never_overwritten(captured):
    with pytest.raises(InputError, match="exists already"):
        parity.capture(made(), "port", captured[1], quiet=True)


def test_a_capture_that_another_process_made_meanwhile_is_kept(tmp_path):
    pair, folder = made(), tmp_path / "port"

    def port():
        folder.mkdir(exist_ok=True)
        (folder / FILE).write_text("theirs")
        return pair.port()

    with pytest.raises(InputError, match="exists already"):
        parity.capture(replace(pair, port=port), "port", folder, quiet=True)
    assert [path.read_text() for path in tmp_path.rglob("*.*")] == ["theirs"]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"executions": ("zzz",)}, "TensorFlow has no `zzz` execution"),
        ({"device": "gpu"}, "there is no GPU"),
    ],
)
def test_how_a_port_cannot_run_is_refused_before_anything_runs(tmp_path, monkeypatch, named, words):
    monkeypatch.setattr(capturing, "_run", lambda *words: pytest.fail("a model ran"))
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    with pytest.raises(InputError, match=words):
        parity.capture(made(), "port", tmp_path / "port", quiet=True, **named)


@pytest.mark.parametrize("device", ["gpu", "tpu"])
def test_a_device_that_is_not_there_is_refused(tmp_path, device):
    if tf.config.list_physical_devices(device.upper()):
        pytest.skip(f"there is a {device} here")
    named = {"precisions": ("float32",), "executions": ("eager",), "device": device}
    with pytest.raises(InputError, match=f"there is no {device.upper()}"):
        parity.capture(made(), "port", tmp_path / "port", quiet=True, **named)
    assert not (tmp_path / "port").exists()


def test_a_reference_is_captured_on_the_processor(tmp_path):
    with pytest.raises(InputError, match="a reference is not captured on a GPU"):
        parity.capture(made(), "reference", tmp_path / "reference", device="gpu", quiet=True)
