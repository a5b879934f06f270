"""The weights that a training starts from: drawn, seeded, or those of a checkpoint."""

import hashlib
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from maskformer.model.seeded import seeded_state
from parity.errors import InputError

SEEDED = "seeded:"
_WRAPPERS = ("model", "state_dict")
_LISTED = 5


def load_initial(model: nn.Module, initial: str | None) -> str | None:
    """Gives `model` the weights that `RunSettings.initial` names; the sha256 of their file, if any.

    A checkpoint has the model's own keys: all of them, or those of the backbone alone, which leaves
    the rest as it was initialised. Raises InputError for anything else, and lists what is wrong.
    """
    if initial is None:
        return None
    if initial.startswith(SEEDED):
        seed = initial.removeprefix(SEEDED)
        if not seed.isdigit():
            raise InputError(
                f"the initial weights {initial!r} have no seed",
                "expected: seeded:N with a whole number N",
            )
        spec = [(key, tuple(value.shape)) for key, value in model.state_dict().items()]
        drawn = {k: torch.from_numpy(v) for k, v in seeded_state(spec, int(seed)).items()}
        model.load_state_dict(drawn, strict=False)
        return None
    path = Path(initial)
    state = _read(path)
    _check_fits(model, state, path)
    model.load_state_dict(state, strict=False)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        for wrapper in _WRAPPERS:
            if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
                state = state[wrapper]
        if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
            raise ValueError("not a dictionary of tensors")
        return state
    except FileNotFoundError:
        raise InputError(
            f"the initial weights {path} do not exist",
            f"looked in {path.parent.resolve()}",
            "Give a checkpoint, or seeded:N.",
        ) from None
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        LookupError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        raise InputError(
            f"the initial weights {path} cannot be read",
            f"{type(error).__name__}: {' '.join(str(error).split())[:160]}",
            "Expected: a .safetensors file or a PyTorch state dict; `parity convert` makes one.",
        ) from None


def _check_fits(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    backbone_only = bool(state) and all(key.startswith("backbone.") for key in state)
    wanted = [key for key in own if key.startswith("backbone.") or not backbone_only]
    problems = [f"{key} is missing" for key in wanted if key not in state]
    problems += [f"{key} is not the model's" for key in state if key not in own]
    problems += [
        f"{key} is {list(state[key].shape)}, but should be {list(own[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != own[key].shape
    ]
    problems += [
        f"{key} holds NaN or infinity"
        for key in wanted
        if key in state and state[key].is_floating_point() and not state[key].isfinite().all()
    ]
    if problems:
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise InputError(
            f"the initial weights {path} do not fit {model.config.name}",
            "; ".join(problems[:_LISTED]) + more,
            "Give a checkpoint of this config, or convert it: parity convert.",
        )
