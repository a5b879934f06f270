"""What a bench says of a port: the claims that fail, the places they name, what others notice."""

import linecache
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.claims import Claim
from parity.faults import Named, conventional


@dataclass(frozen=True)
class Finding:
    """What an audit said: the claims that fail, the places it names, what others would notice."""

    claims: tuple[str, ...]
    named: tuple[Named, ...]
    noticed: Mapping[str, bool]


def broken(place: str, error: Exception) -> Finding:
    """What is said of a port that cannot be run, which every check notices.

    The innermost function of the port that was running is named beside `place`.
    """
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    names = conventional({}, {"": np.zeros(1)})
    named = Named(place, _innermost(error), (text,))
    return Finding(("runs",), (named,), dict.fromkeys(names, True))


def _innermost(error: Exception) -> str:
    """The innermost function of the port in a traceback, with its line."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module.startswith("tf_impl"):
            code = frame.f_code
            text = linecache.getline(code.co_filename, line).strip()
            found = f"{code.co_name}: `{text}`"
    return found


def found_by(place: str, judged: Callable[[], Sequence[Claim]]) -> Finding:
    """What the claims that `judged` makes say of a port; one that breaks there is noticed."""
    try:
        claims = judged()
    except Exception as error:
        return broken(place, error)
    return of_claims(claims, {})


def of_claims(claims: Sequence[Claim], noticed: Mapping[str, bool]) -> Finding:
    """The claims that fail, and the places they name; what is only inherited names no place."""
    failed = [one for one in claims if one.verdict == "fails"]
    named = [
        Named(one.place.part, one.place.text, one.causes)
        for one in failed
        if not one.place.inherited
    ]
    return Finding(tuple(one.id for one in failed), tuple(named), noticed)
