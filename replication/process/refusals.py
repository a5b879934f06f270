"""What another process of ours says as it ends: one error of the user's, or that it failed."""

import json
import sys
from collections.abc import Callable, Sequence

from parity.errors import InputError

LAST_LINES = 12
WRONG_INPUT = 2


def status_of(work: Callable[[], None]) -> int:
    """The status to end with after `work`: 2 where it raises InputError, said on standard error."""
    try:
        work()
    except InputError as error:
        print(json.dumps([line.strip() for line in str(error).splitlines()]), file=sys.stderr)
        return WRONG_INPUT
    return 0


def check_status(status: int, said: Sequence[str], what: str) -> None:
    """Raises what a process ended by that said these lines on standard error, the last ones at
    least: the InputError of `status_of`, or RuntimeError where it failed; `what` it was."""
    if status == WRONG_INPUT:
        raise InputError(*json.loads(said[-1]))
    if status:
        raise RuntimeError(f"{what} ended with {status}: {list(said[-LAST_LINES:])}")
