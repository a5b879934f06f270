"""The PyTorch side of a comparison, and what only the reference is asked for."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from maskformer.data.images import Size
from maskformer.data.targets import Target
from maskformer.family import MASKFORMER
from maskformer.inference.prediction import Prediction
from maskformer.model.config import ModelConfig
from maskformer.model.inputs import InputConfig
from maskformer.model.solver import SolverConfig
from maskformer.runs.run_settings import RunSettings
from parity.judge import MIXED
from replication.sides.implementation import Frame, Implementation, TrainerPlace
from replication.sides.weights import Weights

if TYPE_CHECKING:
    import torch

REFERENCE_AXES = partial(MASKFORMER.axis_names, image="NCHW", tokens="SNC")
REFERENCES = ("builtin", "original", "hf")


def build_reference(
    config: ModelConfig, weights: Weights, dtype: str, kind: str = "builtin"
) -> "torch.nn.Module":
    """The PyTorch model in eval mode with `weights`, computing in `dtype`.

    In `MIXED` its weights are float32, it runs under autocast, and its outputs are widened for the
    losses, as the port widens its own. `kind` "original" builds facebookresearch/MaskFormer itself,
    "hf" transformers' MaskFormer, each where it is installed.
    """
    import torch

    if dtype == MIXED:
        model = build_reference(config, weights, "float32", kind)
        model.forward = partial(_mixed, model.forward)
        return model
    if kind == "hf":
        from weight_conversion import hugging_face_model

        return hugging_face_model.build(config, weights.state).to(getattr(torch, dtype))
    if kind == "original":
        from torch_reference import original

        model = original.build(config)
    else:
        import torch_reference

        model = torch_reference.build(config)
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in weights.state.items()}
    model.load_state_dict(tensors)
    return model.eval().to(getattr(torch, dtype))


def _mixed(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    """What a model returns under autocast, in float32."""
    import torch

    # Weights are moved between runs, and a cast that was kept would be that of the old ones.
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        outputs = forward(*inputs, **named)
    return torch.utils._pytree.tree_map(lambda one: one.float(), outputs)


def reference_drawn(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """What the PyTorch model starts from with this seed, by state-dict key."""
    import torch

    import torch_reference

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        state = torch_reference.build(config).state_dict()
    return {key: value.numpy() for key, value in state.items() if value.is_floating_point()}


def reference_inputs(batch: np.ndarray, sizes: np.ndarray, dtype: str) -> dict[str, Any]:
    """The PyTorch model's arguments for a batch uint8 [N,H,W,3] and its sizes int32 [N,2]."""
    return {"images": batch.transpose(0, 3, 1, 2).astype(dtype), "sizes": sizes}


def tensor(array: np.ndarray) -> "torch.Tensor":
    """The array as a tensor that shares its memory, strides included."""
    import torch

    return torch.from_numpy(array)


def run(model: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's outputs for `reference_inputs`, without gradients."""
    import torch

    with torch.no_grad():
        return model(**{key: tensor(array) for key, array in inputs.items()})


def reference_batch(
    config: ModelConfig,
    images: np.ndarray,
    sizes: np.ndarray,
    targets: "Sequence[Target] | np.ndarray",
    dtype: str,
) -> Any:
    """`torch_reference.train_step.Batch` of images uint8 [N,H,W,3] and their targets.

    A per-pixel head takes labels int [N,H,W] as `targets`.
    """
    import torch

    from torch_reference.train_step import Batch

    inputs = reference_inputs(images, sizes, dtype)
    if config.matching is None:
        wanted: Any = torch.from_numpy(np.asarray(targets, np.int64))
    else:
        wanted = [
            {name: torch.from_numpy(np.array(array)) for name, array in target.items()}
            for target in targets
        ]
    return Batch(torch.from_numpy(inputs["images"]), torch.from_numpy(inputs["sizes"]), wanted)


def reference_loss(model: Any, targets: Any) -> Any:
    """The loss of a step as a function of the PyTorch model's outputs."""
    from torch_reference.criterion import weighted_total
    from torch_reference.train_step import batch_losses

    return lambda outputs: weighted_total(batch_losses(model, outputs, targets), model.config.loss)


class ReferenceRun:
    """The PyTorch side, one update at a time; dropout is off."""

    def __init__(
        self,
        config: ModelConfig,
        solver: SolverConfig,
        weights: Any,
        dtype: str,
        seed: int | None = None,
    ) -> None:
        """With `seed`, the weights start moved by up to one unit in the last place."""
        import torch

        from parity.metrics import perturb_ulp
        from torch_reference.optimizer import build_optimizer
        from torch_reference.schedule import SolverSchedule

        self.config, self.dtype = config, dtype
        self.model = build_reference(config, weights, dtype)
        if seed is not None:
            for index, parameter in enumerate(self.model.parameters()):
                moved = perturb_ulp(parameter.detach().numpy(), seed + index)
                parameter.data = torch.from_numpy(moved)
        self.optimizer = build_optimizer(self.model, solver)
        self.schedule = SolverSchedule(self.optimizer, solver)

    def step(self, images: Any, sizes: Any, targets: Any) -> dict[str, Any]:
        """One update: losses, total, norm, pairs."""
        from torch_reference.train_step import train_step

        batch = reference_batch(self.config, images, sizes, targets, self.dtype)
        result = train_step(self.model, self.optimizer, batch)
        self.schedule.step()
        return {
            "losses": {name: float(value) for name, value in result.losses.items()},
            "total": float(result.total),
            "norm": float(result.gradient_norm),
            "pairs": target_of_query(result.matching, self.config.matching.queries),
        }

    def weights(self) -> dict[str, np.ndarray]:
        """The parameters by state-dict key; views, valid until the next step."""
        return {key: p.detach().numpy() for key, p in self.model.named_parameters()}


def target_of_query(matching: Sequence[Any], queries: int) -> np.ndarray:
    """int [L,B,Q] from each layer's (queries, targets) per image; -1 where unmatched."""
    found = np.full((len(matching), len(matching[0]), queries), -1)
    for layer, images in enumerate(matching):
        for image, (rows, columns) in enumerate(images):
            found[layer, image, rows] = columns
    return found


def predict(
    outputs: Mapping[str, Any], config: ModelConfig, frame: Frame, results: Sequence[str]
) -> Prediction:
    """The results of one image's outputs, tensors [1,...], by the reference's post-processing."""
    from torch_reference import inference

    sizes = ([frame.valid], [frame.size])
    return inference.predict(outputs, config, frame.padded, *sizes, results)[0]


def predict_augmented(
    model: Any, image: np.ndarray, config: ModelConfig, inputs: InputConfig, size: Size
) -> np.ndarray:
    """Scores [K,H,W] of multi-scale and mirrored testing."""
    from torch_reference.inference import predict_with_augmentation

    return predict_with_augmentation(model, image, config, inputs, size)


def query_probabilities(
    outputs: Mapping[str, "torch.Tensor"], frame: Frame
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities [Q,K+1] and mask probabilities [Q,H,W] of one image, float64."""
    from torch_reference.inference import sem_seg_postprocess

    masks = outputs[MASKFORMER.outputs.masks][0]
    masks = sem_seg_postprocess(masks, masks.shape[-2:], frame.padded)
    masks = sem_seg_postprocess(masks, frame.valid, frame.size)
    classes = outputs[MASKFORMER.outputs.classes][0].softmax(dim=-1)
    masks = masks.sigmoid()
    return tuple(one.numpy().astype(np.float64, copy=False) for one in (classes, masks))


def initial_state(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """The state dict of the reference's own initialisation, drawn from `seed`."""
    import torch

    import torch_reference

    torch.manual_seed(seed)
    return {key: value.numpy() for key, value in torch_reference.build(config).state_dict().items()}


def check_backbone(initial: str, config: ModelConfig) -> None:
    """Raises InputError unless initial weights, also of a backbone alone, fit the model."""
    import torch_reference
    from torch_reference.initial_weights import load_initial

    load_initial(torch_reference.build(config), initial)


def trainer(settings: RunSettings, place: TrainerPlace) -> list[str]:
    """The words of `torch_reference.train`; a run that is there is continued."""
    words = ["torch_reference.train", "--out", str(place.folder), "--resume"]
    words += ["--threads", str(place.threads)]
    for key, value in settings.to_dict().items():
        if key != "solver" and value is not None:
            words += [f"--{key.replace('_', '-')}", str(value)]
    for key, value in settings.to_dict()["solver"].items():
        words += ["--solver", f"{key}={json.dumps(value)}"]
    return words


def set_threads(count: int) -> None:
    """Lets PyTorch compute with `count` threads."""
    import torch

    torch.set_num_threads(count)


TORCH = Implementation(
    name="torch",
    title="PyTorch",
    package="torch",
    axes=REFERENCE_AXES,
    build=build_reference,
    drawn=reference_drawn,
    inputs=reference_inputs,
    tensor=tensor,
    run=run,
    batch=reference_batch,
    loss=reference_loss,
    updates=ReferenceRun,
    predict=predict,
    predict_augmented=predict_augmented,
    trainer=trainer,
    check_backbone=check_backbone,
    set_threads=set_threads,
)
