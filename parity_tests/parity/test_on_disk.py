"""Arrays and traces on disk come back bit for bit, and are in memory only while they are used."""

import gc
import os
import weakref

import numpy as np
import pytest

from parity.errors import InputError
from parity.on_disk import ArraysOnDisk, Renamed, TraceOnDisk
from parity.pairing import Comparison
from parity.trace import Tap, Trace, TraceError

ARRAYS = {
    "numbers": np.array([[1.5, -0.0, np.nan], [np.inf, 5e-324, -1.0]]),
    "single": np.arange(7, dtype=np.float32),
    "turned": np.arange(12.0).reshape(3, 4).T,
    "one": np.array(3.25),
    "none of them": np.zeros((2, 0, 3), np.float16),
    "flags": np.array([True, False]),
    "counts": np.arange(5, dtype=np.int32),
    "no array": None,
}


def alike(ours, theirs):
    """Bit for bit, shape and dtype too."""
    if ours is None or theirs is None:
        return ours is theirs
    return (ours.shape, ours.dtype, ours.tobytes()) == (
        theirs.shape,
        theirs.dtype,
        theirs.tobytes(),
    )


def test_arrays_come_back_bit_for_bit():
    kept = ArraysOnDisk(ARRAYS)
    assert list(kept) == list(ARRAYS)
    assert [name for name in ARRAYS if not alike(kept[name], ARRAYS[name])] == []
    assert not alike(kept["single"], np.arange(7.0))


def test_zeros_of_both_signs_stay_apart():
    kept = ArraysOnDisk({"plus": np.array([0.0]), "minus": np.array([-0.0])})
    assert [bool(np.signbit(kept[name][0])) for name in kept] == [False, True]


def test_equal_arrays_are_stored_once_and_are_one_array():
    content = np.random.default_rng(0).normal(size=1000)
    kept = ArraysOnDisk({"a": content})

    def size():
        return os.fstat(kept._file).st_size

    kept["b"] = content.copy()
    assert size() == content.nbytes
    kept["other shape"] = content.reshape(10, 100)
    assert size() >= 2 * content.nbytes
    one, other = kept["a"], kept["b"]
    assert one is other
    assert kept["other shape"] is not one


def test_what_is_written_to_an_array_stays_in_memory():
    kept = ArraysOnDisk({"a": np.zeros(4)})
    array = kept["a"]
    array[0] = 1.0
    del array
    gc.collect()
    assert kept["a"][0] == 0.0


def test_an_array_goes_with_its_last_reference():
    kept = ArraysOnDisk({"a": np.zeros(4)})
    held = weakref.ref(kept["a"])
    assert held() is None
    array = kept["a"]
    held = weakref.ref(array)
    assert held() is array


def test_a_file_is_closed_with_its_arrays():
    kept = ArraysOnDisk({"a": np.ones(4)})
    array, file = kept["a"], kept._file
    del kept
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)
    assert array.sum() == 4


def test_a_full_disk_is_said(monkeypatch):
    kept = ArraysOnDisk()
    with open("/dev/full", "wb") as full:
        monkeypatch.setattr(kept, "_file", full.fileno())
        with pytest.raises(InputError, match="do not fit into") as told:
            kept["a"] = np.ones(10)
    assert "TMPDIR" in str(told.value)


def tap(key, array, **how):
    return Tap(key, "output", "", 0, "NC", array, **how)


def test_a_trace_on_disk_is_that_in_memory():
    plain, kept = Trace(), TraceOnDisk()
    arrays = np.random.default_rng(0).normal(size=(3, 2, 5))
    for number, array in enumerate(arrays):
        for trace in (plain, kept):
            trace.add(tap(f"m{number}", array))
    arrays[:] = 0.0  # as a tensor that is used again
    assert list(kept) == list(plain)
    assert kept.places() == plain.places()
    assert all(np.any(one.array) for one in kept.values())
    with pytest.raises(TraceError, match="two taps"):
        kept.add(tap("m0", arrays[0]))


def test_a_part_of_a_trace_shares_its_arrays():
    for trace in (Trace(), TraceOnDisk()):
        for name in "ab":
            trace.add(tap(name, np.ones((2, 3)) * ord(name)))
        part = trace.without({"a:output"})
        assert list(part) == ["b:output"]
        assert part["b:output"].array[0, 0] == ord("b")
        assert len(trace) == 2


def test_taps_under_other_names_are_those_of_the_trace():
    trace = TraceOnDisk()
    trace.add(tap("a", np.ones((2, 3))))
    renamed = Renamed(trace, {"x": "a:output", "y": "b:output"})
    assert ("x" in renamed, "y" in renamed, "a:output" in trace) == (True, False, True)
    assert list(renamed) == ["x"]
    assert renamed["x"].array.sum() == 6


def test_a_tap_that_is_an_earlier_one_is_measured_once():
    kept, array = TraceOnDisk(), np.ones((2, 3))
    kept.add(tap("a", array))
    kept.add(tap("b", array, same_as="a:output"))
    comparison = Comparison(kept)
    comparison(tap("a", 2 * array))
    comparison(tap("b", 2 * array, same_as="a:output"))
    assert comparison.gaps["b:output"] is comparison.gaps["a:output"]
    comparison(tap("c", array))
    assert comparison.unpaired == ["c:output"]
