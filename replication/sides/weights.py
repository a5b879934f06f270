"""The weights that both sides of a comparison have."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskformer.family import family_of
from maskformer.model.config import ModelConfig
from parity.errors import InputError
from parity.weights import state_digest


@dataclass(frozen=True)
class Weights:
    """A complete state dict in torch's layout, where it came from, and its sha256."""

    state: Mapping[str, np.ndarray]
    source: str
    sha256: str


def load_weights(spec: str, config: ModelConfig) -> Weights:
    """The weights that `seeded:N` or a file name stands for, checked against `config`.

    `seeded:N,scaled` are those of `seeded:N` with the weights of each layer a factor of 0.1 to 10
    larger (`scaled_by_layer`).

    Raises InputError for a bad seed, an unreadable file, and for missing, unexpected, mis-shaped or
    non-finite tensors, listing them all.
    """
    from weight_conversion.layouts import check_complete
    from weight_conversion.spec import expected

    own = expected(config)
    if spec.startswith("seeded:"):
        seed, _, how = spec.removeprefix("seeded:").partition(",")
        if not seed.isdigit() or how not in ("", "scaled"):
            raise InputError(
                f"--weights {spec!r} has no seed" if not how else f"--weights {spec!r} is unknown",
                "expected seeded:N or seeded:N,scaled with a whole number N",
                "for example --weights seeded:7",
            )
        drawn = family_of(config).state.seeded(
            [(k, one.shape) for k, one in own.items()], int(seed)
        )
        if how:
            drawn = scaled_by_layer(drawn, int(seed))
        state = {key: drawn[key] if key in drawn else own[key].constant() for key in own}
    else:
        from weight_conversion.checkpoints import open_source
        from weight_conversion.plan import make_plan

        with open_source(Path(spec)) as source:
            plan = make_plan(source, config)
            state = {one.spec.name: one.combine(one.load_sources()) for one in plan.pairs}
        check_complete(state, {key: (one.shape, one.dtype) for key, one in own.items()})
        state = {key: state[key] for key in own}
    return Weights(state, spec, state_digest(state))


def scaled_by_layer(state: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """What is learnt of each layer, times a factor of its own between 0.1 and 10.

    Factors are equally likely per decade. Statistics of batch norms stay, as variances below 0.01
    would be those of a layer that nothing has trained.
    """
    rng = np.random.default_rng(seed)
    layers = dict.fromkeys(key.rpartition(".")[0] for key in state)
    factors = dict(zip(layers, 10.0 ** rng.uniform(-1, 1, len(layers)), strict=True))
    return {
        key: array
        if key.rpartition(".")[2].startswith("running_")
        else (array * factors[key.rpartition(".")[0]]).astype(array.dtype)
        for key, array in state.items()
    }


def load_for_other_classes(
    path: str, config: ModelConfig
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The weights of a checkpoint that a model of other classes can start from.

    Returns them by name, and why each tensor of the file is left out: of the head those that depend
    on the number of classes, where that is another; of a backbone alone there is no head at all.
    Raises InputError as `load_weights` does.
    """
    from weight_conversion.checkpoints import open_source
    from weight_conversion.plan import class_tensors, make_plan

    with open_source(Path(path)) as source:
        plan = make_plan(source, config, renewed=class_tensors(config))
        state = {one.spec.name: one.combine(one.load_sources()) for one in plan.pairs}
    return state, plan.left_out
