"""Mistakes in maps are found and named, in every framework."""

import pytest

from parity_tests.parity.frameworks.maps import DECLARED, KINDS, LOADED, SOUND
from parity_tests.parity.frameworks.processes import outcomes

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


@pytest.mark.parametrize("kind", EACH)
def test_a_mistake_in_a_map_is_found_and_named(kind):
    found = outcomes("maps", kind)
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
        result = outcomes("maps", kind)[f"{how}: {SOUND}"]
        assert (result["verdict"], result["places"], result["failing"]) == ("equal", {}, {})
