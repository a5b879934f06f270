"""The published learning-rate schedules as a torch scheduler."""

import torch
from torch.optim.lr_scheduler import LRScheduler

from maskformer.model.solver import SolverConfig, learning_rate


class SolverSchedule(LRScheduler):
    """Sets every group's rate to `maskformer.model.solver.learning_rate` of its own base rate.

    Step it once after each optimizer step; the first update uses iteration 0.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, solver: SolverConfig, last_epoch: int = -1
    ) -> None:
        self.solver = solver
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each parameter group at iteration `last_epoch`."""
        return [learning_rate(self.solver, self.last_epoch, base) for base in self.base_lrs]

    _get_closed_form_lr = get_lr  # torch's mark of rates that follow from the iteration alone

    def state_dict(self) -> dict[str, object]:
        """All state but the solver, which is configuration."""
        return {key: value for key, value in super().state_dict().items() if key != "solver"}
