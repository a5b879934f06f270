"""Ports of this machine for processes that will talk to each other."""

import contextlib
import random
import socket

PORTS = range(20_000, 32_000)  # below those that systems give to outgoing connections


def free_ports(count: int) -> list[int]:
    """Different ports that nothing listens on, and that no outgoing connection will take.

    A port that the system gives may be taken by any connection before a process that has first
    to load its libraries listens on it.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            port = random.SystemRandom().choice(PORTS)
            listener = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", port))
                found.append(port)
    return found
