"""The same updates by the PyTorch reference on as many processes, which average their gradients.

That is how the original trains: `DistributedDataParallel` over gloo ranks, here on one processor.
"""

import contextlib
import pickle
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.metrics import Gap, perturb_ulp
from parity.orphans import end_with_parent
from replication.sides.torch_side import build_reference, reference_batch
from replication.tpu.stepping import (
    MODES,
    NORM,
    TOTAL,
    Arrays,
    Exact,
    Measured,
    exact_updates,
    further_gradients,
    measured_updates,
    twins,
)

if TYPE_CHECKING:
    from replication.tpu.training_case import Case

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Ranked:
    """Updates of the ranks: exact ones, and how far a precision and its twins are from them."""

    exact: Exact
    own: Measured
    twins: tuple[Measured, ...]


@dataclass(frozen=True)
class Share:
    """What one rank finds of the first update in float64, before anything is averaged.

    `losses` by name; `gradients` of its own loss divided by the number of ranks, by key.
    """

    losses: Mapping[str, float]
    gradients: Arrays


def ranked_updates(case: "Case", precision: str) -> Ranked:
    """The reference's updates on `case.replicas` processes, in float64 and in a precision."""
    return _on_ranks(case, partial(_updates, precision=precision))[0]


def further_ranked(case: "Case", precision: str, exact: Exact) -> Mapping[str, Gap]:
    """`further_gradients` of the reference on `case.replicas` processes."""
    return _on_ranks(case, partial(_further, precision=precision, exact=exact))[0]


def shares(case: "Case", normalisation: str) -> list[Share]:
    """What each rank contributes to the first update, losses being normalised in this way."""
    return _on_ranks(case, partial(_share, normalisation=normalisation))


class _Rank:
    """One rank in training."""

    def __init__(
        self, case: "Case", rank: int, precision: str, seed: int | None = None, units: int = 1
    ) -> None:
        from torch.nn.parallel import DistributedDataParallel

        from torch_reference.optimizer import build_optimizer
        from torch_reference.schedule import SolverSchedule

        self._case, self._rank, self._seed, self._units = case, rank, seed, units
        self._dtype = "float64" if precision == "float64" else "float32"
        self._model = build_reference(case.config, case.moved(seed, units), MODES[precision])
        self._shared = DistributedDataParallel(self._model)
        self._optimizer = build_optimizer(self._model, case.solver)
        self._schedule = SolverSchedule(self._optimizer, case.solver)

    def step(self, number: int) -> dict[str, float]:
        """One update; losses are means over ranks."""
        import torch

        from torch_reference.train_step import train_step

        batch = _batch(self._case, self._rank, number, self._dtype)
        if self._seed is not None:
            moved = perturb_ulp(batch.images.numpy(), self._seed + number, self._units)
            batch = batch._replace(images=torch.from_numpy(moved))
        result = train_step(self._shared, self._optimizer, batch)
        self._schedule.step()
        named = {**result.losses, TOTAL: result.total}
        values = torch.stack([one.double() for one in named.values()])
        torch.distributed.all_reduce(values)
        means = (values / self._case.replicas).tolist()
        return {**dict(zip(named, means, strict=True)), NORM: float(result.gradient_norm)}

    def gradients(self) -> Arrays:
        """The averaged gradients; the optimizer has clipped them in place."""
        found = self._model.named_parameters()
        return {key: one.grad.numpy() for key, one in found if one.grad is not None}

    def weights(self) -> Arrays:
        """The parameters."""
        return {key: one.detach().numpy() for key, one in self._model.named_parameters()}


def _updates(case: "Case", rank: int, precision: str) -> Ranked:
    from parity.frameworks.torch.reordered import reordered
    from parity.steps import give_back

    exact = exact_updates(_Rank(case, rank, "float64"), len(case.batches))
    give_back()
    own = measured_updates(_Rank(case, rank, precision), exact)
    moved = twins(lambda seed: _Rank(case, rank, precision, seed), reordered, exact)
    return Ranked(exact, own, moved)


def _further(case: "Case", rank: int, precision: str, exact: Exact) -> Mapping[str, Gap]:
    return further_gradients(partial(_Rank, case, rank, precision), exact)


def _share(case: "Case", rank: int, normalisation: str) -> Share:
    from torch_reference.train_step import forward_backward

    model = build_reference(case.config, case.weights, "float64")
    if not case.config.is_per_pixel:
        model.criterion.normalisation = normalisation
    found = forward_backward(model, _batch(case, rank, 0, "float64"))
    gradients = {
        key: one.grad.numpy() / case.replicas
        for key, one in model.named_parameters()
        if one.grad is not None
    }
    return Share({name: float(one) for name, one in found.losses.items()}, gradients)


def _batch(case: "Case", rank: int, number: int, dtype: str) -> Any:
    given = case.batches[number].part(rank, case.per_replica)
    return reference_batch(case.config, given.images, given.sizes, given.targets, dtype)


def _on_ranks(case: "Case", function: Callable[..., Any]) -> list[Any]:
    """What `function(case, rank)` returns in each of `case.replicas` processes, joined by gloo.

    Raises RuntimeError with the traceback of a process that fails.
    """
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        processes = [
            context.Process(target=_rank, args=(folder, case, rank, function))
            for rank in range(case.replicas)
        ]
        for process in processes:
            process.start()
            stack.callback(_end, process)
        for process in _ended(processes):
            if process.exitcode:
                rank = processes.index(process)
                failure = folder / f"{rank}.failed"
                words = failure.read_text() if failure.exists() else "no traceback"
                raise RuntimeError(f"rank {rank} ended with status {process.exitcode}: {words}")
        found = []
        for rank in range(case.replicas):
            with (folder / f"{rank}.found").open("rb") as file:
                found.append(pickle.load(file))  # written by this program a moment ago
        return found


def _ended(processes: list[SpawnProcess]) -> Iterator[SpawnProcess]:
    """The processes as they end."""
    waiting = list(processes)
    while waiting:
        for process in list(waiting):
            process.join(POLL_SECONDS)
            if process.exitcode is not None:
                waiting.remove(process)
                yield process


def _end(process: SpawnProcess) -> None:
    if process.exitcode is None:
        process.kill()
        process.join()


def _rank(folder: Path, case: "Case", rank: int, function: Callable[..., Any]) -> None:
    """One process: joins the others, and leaves what it found in the folder."""
    import torch
    from torch import distributed

    end_with_parent()
    torch.set_num_threads(1)
    try:
        meeting = (folder / "meeting").as_uri()
        distributed.init_process_group(
            "gloo", init_method=meeting, rank=rank, world_size=case.replicas
        )
        found = function(case, rank)
        # All have the same but shares; the first one's is enough to send.
        own = found if rank == 0 or isinstance(found, Share) else None
        with (folder / f"{rank}.found").open("wb") as file:
            pickle.dump(own, file, protocol=pickle.HIGHEST_PROTOCOL)
        distributed.barrier()
        distributed.destroy_process_group()
    except BaseException:
        (folder / f"{rank}.failed").write_text(traceback.format_exc())
        raise
