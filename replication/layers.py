"""The layers of the installation: which extra brings what a verb imports and does not find."""

from parity.errors import InputError

LAYERS = {  # the extras of pyproject.toml, by the packages that only they bring
    "torch": "torch",
    "tensorflow": "tf",
    "tf_keras": "tf",
    "google": "tf",
    "google.protobuf": "tf",
    "absl": "tf",
    "official": "model-garden",
    "orbit": "model-garden",
    "jax": "tpu",
    "jaxlib": "tpu",
    "libtpu": "tpu",
    "psutil": "tpu",
    "tensorboard": "data",
    "pycocotools": "data",
    "sklearn": "data",
    "transformers": "hugging-face",
    "keras": "keras",
    "flax": "flax",
    "optax": "flax",
}


def layer_error(error: ModuleNotFoundError) -> InputError | None:
    """What to install where a layer's package is missing; None for any other missing module."""
    layer = LAYERS.get(error.name or "")
    if layer is None:
        return None
    return InputError(
        f"this needs the layer `{layer}`, which is not installed",
        str(error),
        f"pip install 'maskformer-replication[{layer}]', or with [all] what every verb needs",
    )
