"""transformers' MaskFormer as a module with this project's inputs and outputs, from our weights."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from maskformer.model.config import ModelConfig
from parity.errors import InputError
from weight_conversion import hugging_face


class HuggingFaceMaskFormer(nn.Module):
    """The library's model between our image preparation and our names of outputs.

    It is set up as the library is for training, with auxiliary outputs: `use_auxiliary_loss`, and
    the hidden states that this needs and the library's forward does not ask for by itself (5.23).
    """

    def __init__(self, config: ModelConfig) -> None:
        from transformers import MaskFormerConfig, MaskFormerForInstanceSegmentation

        super().__init__()
        settings = hugging_face.library_config(config) | {"use_auxiliary_loss": True}
        self.library = MaskFormerForInstanceSegmentation(MaskFormerConfig.from_dict(settings))
        for name in ("pixel_mean", "pixel_std"):
            value = torch.tensor(getattr(config, name)).reshape(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor | list]:
        """Predictions for RGB images [N,3,H,W], 0..255, of which `sizes` [N,2] are valid."""
        x = (images - self.pixel_mean) / self.pixel_std
        if sizes is not None:
            for image, (height, width) in zip(x, sizes.tolist(), strict=True):
                image[:, height:] = 0
                image[:, :, width:] = 0
        found = self.library(x, output_hidden_states=True, output_auxiliary_logits=True)
        return {
            "pred_logits": found.class_queries_logits,
            "pred_masks": found.masks_queries_logits,
            "aux_outputs": [
                {
                    "pred_logits": layer["class_queries_logits"],
                    "pred_masks": layer["masks_queries_logits"],
                }
                for layer in found.auxiliary_logits
            ],
        }


def build(config: ModelConfig, state: Mapping[str, np.ndarray]) -> HuggingFaceMaskFormer:
    """The library's model in eval mode, float32, with the weights of our state dict `state`.

    Raises ModuleNotFoundError where transformers is not installed, and InputError for a part of
    `config` that the library cannot hold, and where its tensors and ours do not match one to one.
    """
    hugging_face.check_supported(config, "give --reference builtin instead")
    model = HuggingFaceMaskFormer(config)
    tensors = {}
    for original, array in state.items():
        names = hugging_face.names(original)
        parts = np.split(array, len(names)) if len(names) > 1 else [array]
        tensors |= dict(zip(names, parts, strict=True))
    extras = hugging_face.extras(config, list(state))
    tensors |= {name: extra.load() for name, extra in extras.items()}
    own = {hugging_face.file_name(name): name for name in model.library.state_dict()}
    if own.keys() != tensors.keys():
        missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        raise InputError(
            "the library's tensors are not the ones this project writes for it",
            f"it also has {missing or 'none'}; it lacks {unknown or 'none'}",
            "use the version of transformers that docs/convert.md names",
        )
    model.library.load_state_dict(
        {own[name]: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
    )
    return model.eval()
