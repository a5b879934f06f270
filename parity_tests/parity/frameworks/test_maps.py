"""Mistakes in maps are found and named, in every framework."""

import functools
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from parity_tests.docs.documents import ROOT
from parity_tests.parity.frameworks.maps import DECLARED, KINDS, LOADED, SOUND

QUICK = ("torch",)
EACH = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
ORDER = ("model", "second is called before first instead of after it")
FOUND = {  # mistake to the place and the words that name it
    "layers exchanged": ORDER,
    "weights exchanged": ORDER,
    "order swapped": ORDER,
    "calls exchanged": ("shared", "the port's call 0 is the reference's 0, not 1"),
    "kernel transposed": ("second", "its matrix transposed"),
}


@functools.cache
def outcomes(kind: str) -> dict[str, Any]:
    """What audits of a kind say, from a process of its own."""
    backend = kind.partition(" ")[2] or "jax"
    environment = os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-m", "parity_tests.parity.frameworks.maps", kind],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return {name: found for line in lines for name, found in line.items()}


@pytest.mark.parametrize("kind", EACH)
def test_a_mistake_in_a_map_is_found_and_named(kind):
    found = outcomes(kind)
    for how, mistakes in (("declared", DECLARED), ("loaded", LOADED)):
        for one in mistakes:
            result = found[f"{how}: {one}"]
            place, words = FOUND[one]
            assert result["verdict"] == "different"
            assert list(result["places"]) == [place], (how, one, result)
            assert words in result["places"][place], (how, one, result)


@pytest.mark.parametrize("kind", EACH)
def test_a_sound_map_is_no_mistake(kind):
    """The twin of the one above."""
    for how in ("declared", "loaded"):
        result = outcomes(kind)[f"{how}: {SOUND}"]
        assert (result["verdict"], result["places"], result["failing"]) == ("equal", {}, {})
