"""What a second model brings: everything that is asked of a model but its two implementations.

The rest of the project takes a configuration from `family_of` to its family, and names no module,
output or loss of a model by itself. A new family is one more `ModelFamily` in `FAMILIES`, and one
`replication.sides.implementation.Implementation` for each framework.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from maskformer.data.targets import training_targets
from maskformer.model import config, seeded, state_dict, tensor_axes, zero_gradients, zoo
from maskformer.runs.run_record import LOSSES


@dataclass(frozen=True)
class Outputs:
    """The keys of the mapping that a model returns, on both sides.

    `classes` holds logits [N,Q,K+1] of each query's class, `masks` logits [N,Q,h,w] of its mask,
    `pixels` logits [N,K,H,W] of a model that has no queries; `earlier` a list of the same of
    the layers before the last one, which are trained, and which nothing is predicted from.
    """

    classes: str
    masks: str
    pixels: str
    earlier: str

    def last(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """What is predicted from: the outputs without those of earlier layers."""
        return {key: value for key, value in outputs.items() if key != self.earlier}

    def layers(self, outputs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The outputs of every layer, the last one first."""
        return [outputs, *outputs.get(self.earlier, ())]


@dataclass(frozen=True)
class StateDict:
    """What is to know of a model's state dict to read and write checkpoints.

    `head` is the path of all that is not the backbone. `is_headed(config, shape_of)` says whether
    the head's tensors, by the shapes that a checkpoint has for their names, may be `config`'s; None
    where it has no head. `constant(config, leaf, shape)` computes a tensor that the configuration
    fixes, None for a weight. `seeded(specs, seed)` draws weights for names and shapes.
    """

    head: str
    is_headed: Callable[[Any, Callable[[str], tuple[int, ...] | None]], bool | None]
    constant: Callable[[Any, str, tuple[int, ...]], Callable[[], np.ndarray] | None]
    seeded: Callable[[Iterable[tuple[str, tuple[int, ...]]], int], dict[str, np.ndarray]]


@dataclass(frozen=True)
class ModelFamily:
    """One kind of model; NumPy is all that it needs.

    Attributes:
        name: what people call it.
        configuration: the type of its configurations, which have a `name`, a `digest`, the number
            of classes, the minimum size of an image, and all that fixes the model's function.
        entries: its published models by name: configuration, inputs, solver, weights, scores.
        axis_names: names the axes of every tensor inside, see `tensor_axes.axis_names`.
        stages: the parts of a model and of a training step, in the order of computation.
        stage_of: the stage of the module at a path.
        outputs: where a model's outputs hold what.
        matching: layers and queries that are matched with targets; None where nothing is.
        results: what a configuration predicts that has a file format: "labels", "panoptic".
        targets: targets of a training step, drawn: configuration, sizes, padded size, number.
        losses: the terms that a run records, the sum first.
        state: its state dict.
        zero_in_theory: which elements of a parameter have no influence on the loss.
    """

    name: str
    configuration: type
    entries: Mapping[str, Any]
    axis_names: Callable[..., str]
    stages: tuple[str, ...]
    stage_of: Callable[[str], str]
    outputs: Outputs
    matching: Callable[[Any], config.Matching | None]
    results: Callable[[Any], tuple[str, ...]]
    targets: Callable[..., Any]
    losses: tuple[str, ...]
    state: StateDict
    zero_in_theory: Callable[[Any, str, tuple[int, ...]], np.ndarray]


MASKFORMER = ModelFamily(
    name="MaskFormer",
    configuration=config.ModelConfig,
    entries=zoo.ENTRIES,
    axis_names=tensor_axes.axis_names,
    stages=tensor_axes.STAGES,
    stage_of=tensor_axes.stage_of,
    outputs=Outputs("pred_logits", "pred_masks", "sem_seg", "aux_outputs"),
    matching=attrgetter("matching"),
    results=attrgetter("results"),
    targets=training_targets,
    losses=LOSSES,
    state=StateDict(
        head=state_dict.HEAD,
        is_headed=state_dict.is_headed,
        constant=state_dict.constant,
        seeded=seeded.seeded_state,
    ),
    zero_in_theory=zero_gradients.zero_in_theory,
)

FAMILIES = (MASKFORMER,)


def family_of(configuration: Any) -> ModelFamily:
    """The family whose configuration this is; LookupError where none has such ones."""
    for family in FAMILIES:
        if isinstance(configuration, family.configuration):
            return family
    raise LookupError(f"no model family has configurations of type {type(configuration).__name__}")
