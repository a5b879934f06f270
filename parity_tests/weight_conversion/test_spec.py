"""The tensors expected of a configuration are those of the original's state dict."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskformer.model import zoo
from maskformer.model.config import ModelConfig
from maskformer.model.state_dict import class_weights, relative_position_index
from parity.errors import InputError
from parity_tests import golden_files
from parity_tests.weight_conversion.samples import CONFIG
from weight_conversion import hugging_face
from weight_conversion.layouts import OIHW_HWIO, OUT_IN_IN_OUT, SAME
from weight_conversion.spec import expected

SPECS = sorted(path.stem for path in golden_files.DIRECTORY.glob("state_spec/*.json"))


@pytest.mark.parametrize("name", SPECS)
def test_expected_equals_the_golden_state_dict(name: str) -> None:
    golden = golden_files.read_json(f"state_spec/{name}.json")
    found = [(s.name, list(s.shape), s.dtype) for s in expected(zoo.model_config(name)).values()]
    assert found == [tuple(entry[:3]) for entry in golden["entries"]]
    buffers = {entry[0] for entry in golden["entries"] if entry[3]}
    constants = {s.name for s in expected(zoo.model_config(name)).values() if s.constant}
    assert constants <= buffers


def test_expected_differs_where_the_configuration_does() -> None:
    entries = golden_files.read_json("state_spec/tiny.json")["entries"]
    changed = zoo.model_config("tiny").replace(predictor={"num_queries": 21})
    found = {s.name: list(s.shape) for s in expected(changed).values()}
    different = [name for name, shape, *_ in entries if found[name] != shape]
    assert different == ["sem_seg_head.predictor.query_embed.weight"]


def test_layout_rules_are_those_of_the_owning_module() -> None:
    specs = expected(CONFIG)
    prefix = "sem_seg_head.predictor."
    assert specs["backbone.patch_embed.proj.weight"].layout is OIHW_HWIO
    assert specs[f"{prefix}class_embed.weight"].layout is OUT_IN_IN_OUT
    decoder = f"{prefix}transformer.decoder.layers.0.self_attn."
    assert specs[f"{decoder}in_proj_weight"].layout is OUT_IN_IN_OUT
    assert specs[f"{decoder}out_proj.weight"].layout is OUT_IN_IN_OUT
    assert specs[f"{prefix}query_embed.weight"].layout is SAME


SIDES = st.sampled_from([1, 3, 63, 64, 65, 130])


@given(out=SIDES, inner=SIDES, kernel=st.sampled_from([None, 1, 3]), dtype=st.sampled_from("fdi"))
def test_layouts_move_axes_and_nothing_else(out, inner, kernel, dtype) -> None:
    shape = (out, inner) if kernel is None else (out, inner, kernel, kernel)
    layout = OUT_IN_IN_OUT if kernel is None else OIHW_HWIO
    tensor = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    moved = layout.to_tf(tensor)
    assert moved.flags.c_contiguous
    np.testing.assert_array_equal(moved, tensor.transpose(layout.axes), strict=True)
    assert layout.torch_shape(moved.shape) == shape
    back = layout.to_torch(moved)
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, tensor, strict=True)


def test_a_variable_of_an_unknown_kind_of_module_is_an_error() -> None:
    from tf_impl import layers
    from weight_conversion.layouts import tf_variables

    class Stranger(layers.Linear):
        """A layer that no rule knows."""

    class Model(layers.tf.Module):
        def __init__(self) -> None:
            self.known, self.head = layers.Linear(2, 3), Stranger(2, 3)

    with pytest.raises(
        InputError, match=r"no layout rule for head\.weight, a tensor of a Stranger"
    ):
        tf_variables(Model())


@pytest.mark.parametrize("window", [1, 4, 7, 12])
def test_relative_position_index_equals_the_models(window: int) -> None:
    from torch_reference.modeling import swin

    index = relative_position_index(window)
    np.testing.assert_array_equal(index, np.asarray(swin.relative_position_index(window)))


def test_class_weights_are_ones_but_for_no_object() -> None:
    np.testing.assert_array_equal(class_weights(CONFIG), np.array([1, 1, 1, 0.1], np.float32))


def library_model(config: ModelConfig):
    import torch
    from transformers import MaskFormerConfig, MaskFormerForInstanceSegmentation

    with torch.device("meta"):
        library = MaskFormerConfig.from_dict(hugging_face.library_config(config))
        return MaskFormerForInstanceSegmentation(library)


@pytest.mark.parametrize("name", ["small", "ade20k_r50", "ade20k_swin_tiny"])
def test_library_names_are_exactly_those_of_transformers(name: str) -> None:
    config = CONFIG if name == "small" else zoo.model_config(name)
    ours = {}
    for spec in expected(config).values():
        names = hugging_face.names(spec.name)
        rows = (spec.shape[0] // len(names), *spec.shape[1:])
        ours |= dict.fromkeys(names, rows)
    ours |= {n: e.shape for n, e in hugging_face.extras(config, list(expected(config))).items()}
    theirs = library_model(config).state_dict().items()
    assert ours == {hugging_face.file_name(n): tuple(t.shape) for n, t in theirs}
