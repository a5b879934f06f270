"""Updates of one TensorFlow process on the global batch, which replicas should make together."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.metrics import perturb_ulp
from replication.sides.tf_side import build_port, keyed, port_batch, tensor
from replication.tpu.stepping import MODES, NORM, TOTAL, Arrays, clip_factor

if TYPE_CHECKING:
    from replication.tpu.training_case import Case


class OneProcess:
    """TensorFlow, one operation at a time, in a precision of `MODES`.

    With `seed`, weights and images are moved by up to `units` in the last place.
    """

    def __init__(
        self, case: "Case", precision: str, seed: int | None = None, units: int = 1
    ) -> None:
        from tf_impl.optimizer import build_optimizer

        self._case, self._seed, self._units = case, seed, units
        self._dtype = "float64" if precision == "float64" else "float32"
        self._model = build_port(case.config, case.moved(seed, units), MODES[precision])
        self._optimizer = build_optimizer(self._model, case.solver, self._dtype)
        self._optimizer.build(self._model.trainable_variables)
        self._last: tuple[list[Any], float] = ([], 0.0)

    def step(self, number: int) -> Mapping[str, float]:
        """One update by the whole batch of this number."""
        from tf_impl import train_step

        case = self._case
        given = case.batches[number]
        batch = port_batch(
            case.config, given.images, given.sizes, given.targets, self._dtype, case.most
        )
        if self._seed is not None:
            moved = perturb_ulp(batch.images.numpy(), self._seed + number, self._units)
            batch = batch._replace(images=tensor(moved))
        found = train_step.gradients(self._model, batch)
        norm = float(train_step.update(self._model, self._optimizer, found.values))
        self._last = (found.values, norm)
        losses = {name: float(value) for name, value in found.losses.items()}
        return {**losses, TOTAL: float(found.total), NORM: norm}

    def gradients(self) -> Arrays:
        """The last gradients, clipped."""
        values, norm = self._last
        scale = clip_factor(norm, self._case.clip)
        found = [None if one is None else _scaled(one.numpy(), scale) for one in values]
        return keyed(self._model, found)

    def weights(self) -> Arrays:
        """The trainable variables."""
        return keyed(self._model, [one.numpy() for one in self._model.trainable_variables])


def _scaled(array: np.ndarray, scale: float) -> np.ndarray:
    return array * array.dtype.type(scale)
