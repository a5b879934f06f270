"""A batch in several parts, one after the other, whose gradients add up before the update.

Mirrors `tf_impl/micro_batches.py`. A device needs the memory of one part only. Parts count as
replicas do: with "ddp_mean" the losses are those of as many more replicas, with "global" those of
one process that has the whole batch.
"""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from maskformer.runs.run_settings import check_parts
from torch_reference.criterion import weighted_total
from torch_reference.matcher import Indices
from torch_reference.train_step import Batch, Forward, matched_losses


def forward_backward(model: nn.Module, batch: Batch, count: int) -> Forward:
    """What `torch_reference.train_step.forward_backward` does, of `count` equal parts of a batch.

    Losses and their sum are means over the parts; outputs and pairs are those of all of them.
    Raises InputError where the batch cannot be divided.
    """
    size = len(batch.images)
    check_parts(size, count)
    plain = getattr(model, "module", model)
    model.zero_grad(set_to_none=True)
    divisors = None
    if not plain.config.is_per_pixel:
        divisors = plain.criterion.divisors(batch.targets, batch.images, count)
    found: list[Forward] = []
    for number in range(count):
        own = slice(number * size // count, (number + 1) * size // count)
        images, sizes, targets = (one[own] for one in batch)
        with _reduced(model, last=number == count - 1):
            outputs = model(images, sizes)
            losses, matching = matched_losses(plain, outputs, targets, divisors)
            total = weighted_total(losses, plain.config.loss)
            (total / count).backward()
        kept = {key: value.detach() for key, value in outputs.items() if key != "aux_outputs"}
        detached = {name: value.detach() for name, value in losses.items()}
        found.append(Forward(kept, detached, total.detach(), matching))
    return Forward(
        {key: torch.cat([one.outputs[key] for one in found]) for key in found[0].outputs},
        {name: _mean([one.losses[name] for one in found]) for name in found[0].losses},
        _mean([one.total for one in found]),
        _joined([one.matching for one in found]),
    )


def _reduced(model: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Gradients are averaged over processes once, with the last part."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return contextlib.nullcontext()


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum(0) / len(values)


def _joined(parts: list[list[Indices] | None]) -> list[Indices] | None:
    """The pairs of every decoder layer, of the images of all parts; None where there are none."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    return [[pair for image in layer for pair in image] for layer in zip(*known, strict=True)]
