"""How many threads both frameworks compute with."""

from parity.errors import InputError


def set_threads(count: int | None) -> None:
    """Lets both frameworks use `count` threads; None leaves their defaults. Call before any run."""
    if count is None:
        return
    if count < 1:
        raise InputError(f"--threads is {count}", "expected at least 1")
    from replication.sides.side import IMPLEMENTATIONS

    for one in IMPLEMENTATIONS.values():
        one.set_threads(count)
