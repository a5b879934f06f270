"""Recordings from before results were types are read, verified and compared, of every kind.

`recordings/` has the kinds that the sample report has not; all were made by the commands of their
time, with a tiny configuration. Of the audit of every architecture most tensors were taken out, and
what follows from them was computed again.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from parity.records import json_text, strict
from parity_tests.reports.test_samples import SAMPLE
from reports.compare import compare
from reports.kinds import KINDS
from reports.loading import load, of_result
from reports.render import write_report
from reports.verification.recheck import recheck
from reports.verification.verify import verify

RECORDINGS = Path(__file__).parent / "recordings"
YOUNGER = {"examples", "functions", "initial-weights", "timings"}  # never recorded otherwise
OLD = load([SAMPLE / "evidence", RECORDINGS])


def test_there_is_an_old_recording_of_every_kind():
    assert {one.kind.name for one in OLD} | YOUNGER == {kind.name for kind in KINDS.values()}
    assert {one.schema.rpartition("/")[2] for one in OLD} == {"1"}


@pytest.mark.parametrize("one", OLD, ids=lambda one: one.kind.name)
def test_an_old_recording_says_what_its_measurements_say(one):
    assert recheck(one) == []


def test_old_recordings_make_a_report_that_is_verified(tmp_path):
    write_report(load([RECORDINGS]), tmp_path)
    assert verify(tmp_path).problems == ()
    for path in RECORDINGS.iterdir():
        copies = [file.read_bytes() for file in (tmp_path / "evidence").iterdir()]
        assert path.read_bytes() in copies


def recorded_again(one):
    """The same as today's commands write it."""
    if one.run is not None:
        return replace(one, result=one.kind.result.from_json(one.result.to_json()))
    return of_result(one.result)


def test_old_recordings_are_compared_with_those_of_today():
    result = compare(OLD, [recorded_again(one) for one in OLD])
    assert (result.verdict, len(result.pairs)) == ("no regression", len(OLD))
    assert [pair.changes for pair in result.pairs] == [()] * len(OLD)


@pytest.mark.parametrize("path", sorted(RECORDINGS.iterdir()), ids=lambda path: path.stem)
def test_an_old_recording_whose_verdict_was_edited_is_found(path):
    """The twin: reading earlier versions forgives nothing."""
    content = json.loads(path.read_text(encoding="utf-8"))
    (found,) = recheck(of_result(content | {"verdict": "another"}))
    assert found[0] == "verdict"


@pytest.mark.parametrize("one", OLD, ids=lambda one: one.kind.name)
def test_what_is_read_is_written_as_it_was_read(one):
    """No part is lost: what today's format leaves out was null, empty, or follows from others."""
    before, after = json.loads(one.files[one.main]), strict(one.result.to_json())
    assert lost(before, json.loads(json_text(after))) == []


def lost(before, after, place=""):
    """Parts that `before` has and `after` has not, or not so."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            each
            for name, value in before.items()
            if name != "schema" and value not in (None, [], {}, "", 0.0, False)
            for each in lost(value, after.get(name), f"{place}.{name}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [each for i, pair in pairs for each in lost(*pair, f"{place}[{i}]")]
    return [] if before == after else [(place, before, after)]
