"""Work in a process of its own: what it returns, and what is said where it has no result."""

import os
import signal

import pytest

from parity.errors import InputError
from replication.console.signals import Terminated, end_by_signals
from replication.process.fresh_process import in_fresh_process


def _sum(first, second, *, minus=0):
    return first + second - minus, os.environ.get("PREPARED")


def _prepare():
    os.environ["PREPARED"] = "yes"


def _killed():
    os.kill(os.getpid(), signal.SIGKILL)


def _wrong():
    raise InputError("the fact", "the evidence", "the action")


def test_fresh_process_returns_what_the_function_does_after_its_preparation():
    assert in_fresh_process(_sum, 2, 3, minus=1, prepare=_prepare) == (4, "yes")
    assert "PREPARED" not in os.environ


@pytest.mark.parametrize("said", [{}, {"what": "the row", "action": "Repeat it."}])
def test_fresh_process_that_is_killed_is_one_error(said):
    with pytest.raises(InputError) as found:
        in_fresh_process(_killed, **said)
    first, evidence, action = str(found.value).splitlines()
    assert f"{said.get('what', 'a process of this command')} was killed" in first
    assert "lack of memory" in evidence
    assert said.get("action", "Repeat the command") in action


def _ended(number):
    end_by_signals()
    signal.raise_signal(number)


def test_signal_to_a_fresh_process_alone_is_told_as_what_it_is():
    with pytest.raises(Terminated) as found:
        in_fresh_process(_ended, signal.SIGTERM)
    assert found.value.status == 143


def test_error_of_a_fresh_process_is_not_taken_for_its_end():
    with pytest.raises(InputError) as found:
        in_fresh_process(_wrong)
    assert str(found.value) == "the fact\n  the evidence\n  the action"
