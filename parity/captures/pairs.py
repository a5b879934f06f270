"""How one side of a named pair is trained where the other one is not, from its `Training`."""

from collections.abc import Callable, Mapping

from parity.auditing.pair import Built, Inputs, Pair, axes_of
from parity.auditing.training import Training
from parity.captures.training import Trained
from parity.names import Naming
from parity.trace import Axes
from parity.training.measured import NOTHING_DROPPED
from parity.training.sides import Holding, Side, cast_targets, check_trainable, own_holdings


def training_of(pair: Pair, training: Training, side: str) -> Callable[[Built, Inputs], Trained]:
    """What makes of a side's float64 model, and its inputs, what trains it.

    Its tensors are known by the reference's keys: each is one variable of the layer that the names
    of the pair give the reference's module for, in the layout of that kind of layer.

    Raises InputError where its framework cannot be trained.
    """
    of_port = side == "port"

    def trained(built: Built, inputs: Inputs) -> Trained:
        check_trainable(built, side)
        axes = axes_of(pair.port_axes if of_port else pair.axes, built.framework)
        naming = pair.names.port_side({}) if of_port else pair.names.reference_side()
        _build(built, inputs, axes, naming)
        targets = training.targets
        if of_port and training.port_targets is not None:
            targets = training.port_targets
        made = Side(
            built,
            inputs,
            cast_targets(targets, "float64"),
            training.port_loss if of_port else training.loss,
            training.port_optimizer if of_port else training.optimizer,
            _holdings(pair, built, of_port),
            axes,
            naming,
        )
        return Trained(made, lambda: _terms(made))

    return trained


def _build(built: Built, inputs: Inputs, axes: Axes, naming: Naming | None) -> None:
    """Calls a model whose variables are made when it is first called."""
    first = built.framework.EXECUTIONS[0]
    recorder = built.framework.recorder(
        built.model, axes, first, only=None, copies=True, naming=naming
    )
    with built.precision():
        recorder.modules_of(inputs)


def _terms(side: Side) -> Mapping[str, float]:
    """The terms of the loss by name, in training."""
    recorder = side.gradient_recorder("eager", NOTHING_DROPPED)
    with side.training() as inputs:
        recorder(inputs, lambda tap: None)
    return recorder.terms


def _holdings(pair: Pair, built: Built, of_port: bool) -> list[Holding]:
    paths = _paths(pair, built) if of_port else {}
    return own_holdings(built, lambda owner: _as_reference(owner, paths))


def _paths(pair: Pair, built: Built) -> dict[str, str]:
    """The reference's path of each module of the port that is paired, by the port's."""
    modules = built.framework.modules(built.model)
    naming = pair.names.port_side({})
    if naming is None:
        return {path: path for path in modules}
    theirs = {id(module): path for path, module in naming.modules(modules).items()}
    return {path: theirs[id(one)] for path, one in modules.items() if id(one) in theirs}


def _as_reference(owner: str, paths: Mapping[str, str]) -> str:
    """The path that the reference has for a module, or for the nearest around it that is paired."""
    above, below = owner, ""
    while above and above not in paths:
        above, _, last = above.rpartition(".")
        below = f"{last}.{below}" if below else last
    parts = [paths.get(above, above), below]
    return ".".join(one for one in parts if one)
