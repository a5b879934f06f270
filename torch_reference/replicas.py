"""The processes of a data-parallel run, as `torchrun` starts them; one process is a run of one."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, distributed

from parity.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Replicas:
    """This process's number `rank` of `world`; collective calls must be made by all of them."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over processes of a tensor of equal shape, in a fixed order."""
        if self.world == 1:
            return value
        total = value.clone()
        distributed.all_reduce(total)
        return total

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks; values are pickled."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        distributed.all_gather_object(found, value)
        return found

    def share(self, batch: int) -> int:
        """Images of a batch per process. Raises InputError where they cannot be shared evenly."""
        if batch % self.world:
            raise InputError(
                f"the batch of {batch} images cannot be shared by {self.world} processes",
                f"{batch} / {self.world} is not whole",
                f"Choose a multiple of {self.world}.",
            )
        return batch // self.world


@contextlib.contextmanager
def joined(device: str) -> Iterator[Replicas]:
    """The replicas of this process, from the environment that `torchrun` sets.

    The processes of a run that succeeds leave together: one that goes ahead cuts connections
    while another still writes its files. After an error none waits.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Replicas()
        return
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Replicas(distributed.get_rank(), world)
        distributed.barrier()
    finally:
        distributed.destroy_process_group()
