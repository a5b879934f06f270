"""Traces survive the disk bit for bit; wrong folders and taps are told apart clearly."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parity.errors import InputError
from parity.trace import KINDS, Tap, Trace, TraceError, tap_key

ARRAYS = st.sampled_from([np.float32, np.float64, np.int64, np.int32, np.bool_]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, max_side=4))
)
WORDS = st.text("abc.0", max_size=6)


def tap(path="a", kind="output", name="", call=0, array=None, same_as=None):
    array = np.zeros(2) if array is None else array
    return Tap(path, kind, name, call, "ABCD"[: array.ndim], array, same_as)


def key_of(place):
    return tap_key(*place)


@st.composite
def traces(draw):
    trace = Trace(provenance=draw(st.dictionaries(WORDS, st.integers() | st.none(), max_size=2)))
    for path, kind, name, call in draw(
        st.lists(
            st.tuples(WORDS, st.sampled_from(KINDS), WORDS, st.integers(0, 3)),
            max_size=5,
            unique_by=key_of,
        )
    ):
        array = draw(ARRAYS)
        if draw(st.booleans()):
            array = array.T
        trace.add(tap(path, kind, name, call, array))
    return trace


@given(trace=traces())
def test_trace_survives_the_disk_bit_for_bit(trace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace") / "one"
    trace.save(folder)
    loaded = Trace.load(folder)
    assert list(loaded) == list(trace)
    assert loaded.provenance == trace.provenance
    for key, one in trace.items():
        other = loaded[key]
        assert (other.path, other.kind, other.name, other.call) == (
            one.path, one.kind, one.name, one.call,
        )  # fmt: skip
        assert (other.axes, other.same_as) == (one.axes, one.same_as)
        assert (other.array.dtype, other.array.shape) == (one.array.dtype, one.array.shape)
        assert other.array.tobytes() == one.array.tobytes()


@pytest.mark.parametrize(
    ("place", "key"),
    [
        (("backbone.res3.0.conv2", "output"), "backbone.res3.0.conv2:output"),
        (("decoder.norm", "output", "", 3), "decoder.norm@3:output"),
        (("layers.1.multihead_attn", "input", "query"), "layers.1.multihead_attn:input.query"),
        (("", "output", "aux.0.pred_logits"), "model:output.aux.0.pred_logits"),
        (("head.weight", "param_grad"), "head.weight:param_grad"),
    ],
)
def test_tap_key_reads_well(place, key):
    assert tap_key(*place) == key
    assert tap(*place).key == key


def test_shared_arrays_are_written_once(tmp_path):
    array = np.random.default_rng(0).normal(size=(500, 40))
    trace = Trace()
    trace.add(tap("a", array=array))
    trace.add(tap("b", "input", array=array, same_as="a:output"))
    trace.save(tmp_path / "t")
    assert (tmp_path / "t" / "taps.safetensors").stat().st_size < 1.1 * array.nbytes
    loaded = Trace.load(tmp_path / "t")
    assert loaded["b:input"].array is loaded["a:output"].array


def test_a_failed_save_leaves_nothing(tmp_path):
    trace = Trace(provenance={"bad": object()})
    trace.add(tap())
    with pytest.raises(TypeError):
        trace.save(tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_save_never_overwrites(tmp_path):
    folder = tmp_path / "t"
    Trace().save(folder)
    with pytest.raises(TraceError) as caught:
        Trace().save(folder)
    assert str(caught.value) == (
        f"{folder} exists already\n  a trace is never overwritten\n  name a new folder"
    )
    assert isinstance(caught.value, InputError)


def test_load_tells_what_is_wrong(tmp_path):
    action = "name a folder written by Trace.save, or capture again"

    def message(folder):
        with pytest.raises(TraceError) as caught:
            Trace.load(folder)
        return str(caught.value).splitlines()

    absent = tmp_path / "absent"
    assert message(absent) == [
        f"{absent} is no trace",
        f"  [Errno 2] No such file or directory: '{absent / 'trace.json'}'",
        f"  {action}",
    ]
    folder = tmp_path / "t"
    trace = Trace()
    trace.add(tap())
    trace.save(folder)
    text = (folder / "trace.json").read_text()
    data = json.loads(text)
    (folder / "trace.json").write_text(json.dumps({**data, "format": 99}))
    assert message(folder)[:2] == [
        f"{folder} is a trace of another format",
        "  its format is 99, this program reads 1",
    ]
    data["taps"][0]["array"] = "7"
    (folder / "trace.json").write_text(json.dumps(data))
    assert message(folder) == [
        f"{folder} is a damaged trace",
        "  trace.json: KeyError('7')",
        f"  {action}",
    ]
    (folder / "trace.json").write_text(text[:-9])
    assert message(folder)[0] == f"{folder} is a damaged trace"
    (folder / "trace.json").write_text(text)
    (folder / "taps.safetensors").write_bytes(b"12345678901234567890")
    assert message(folder)[0] == f"{folder} is a damaged trace"


def test_two_taps_of_one_key_are_an_error():
    trace = Trace()
    trace.add(tap("a", name="x.y"))
    with pytest.raises(TraceError) as caught:
        trace.add(tap("a", name="x.y"))
    assert str(caught.value) == (
        "two taps are called a:output.x.y\n"
        "  names of arguments and results joined by dots must stay different\n"
        "  rename one of the dictionary keys"
    )


@pytest.mark.parametrize("axes", ["N", "NCH", "NN"])
def test_axes_must_name_each_axis_once(axes):
    with pytest.raises(TraceError, match="do not name the axes of its array"):
        Tap("a", "output", "", 0, axes, np.zeros((2, 3)))


def test_an_unknown_kind_is_an_error():
    with pytest.raises(TraceError, match="`result` is no kind of tap"):
        tap(kind="result")
