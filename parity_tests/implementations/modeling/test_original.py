"""The original behind our interface: its YAML, its calls under our names, and clear errors."""

import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import torch_reference
from maskformer.model import zoo
from maskformer.model.config import FEATURES, ModelConfig, ResNetConfig, SwinConfig
from maskformer.model.detectron2_config import read
from parity.errors import InputError
from parity.frameworks.torch.capture import Recorder, measure_floors
from parity.judge import same_function
from parity.pairing import Comparison
from parity.trace import Trace
from replication.sides.torch_side import REFERENCE_AXES, build_reference
from replication.sides.weights import Weights, load_weights
from torch_reference import original
from torch_reference.modeling.maskformer import MaskFormerHead
from torch_reference.modeling.per_pixel import PerPixelBaselineHead, PerPixelBaselinePlusHead
from torch_reference.modeling.pixel_decoder import PixelDecoder
from torch_reference.modeling.position_encoding import PositionEmbeddingSine
from torch_reference.modeling.predictor import TransformerPredictor
from torch_reference.modeling.resnet import ResNet
from torch_reference.modeling.swin import (
    BasicLayer,
    SwinTransformer,
    SwinTransformerBlock,
    WindowAttention,
    shift_mask,
)
from torch_reference.modeling.transformer import TransformerDecoder

TINY = zoo.model_config("tiny").replace(
    name="", backbone=ResNetConfig(depth=18, res2_out_channels=64)
)
TINY_SWIN = SwinConfig(embed_dim=24, depths=(2, 2, 1, 2), num_heads=(1, 2, 2, 4), window_size=3)
CONFIGS = {
    "resnet": TINY,
    "swin": TINY.replace(backbone=TINY_SWIN),
    "per pixel": TINY.replace(head="PerPixelBaselineHead", size_divisibility=0),
    "per pixel plus": TINY.replace(head="PerPixelBaselinePlusHead", size_divisibility=0),
    "one output, pre-norm": TINY.replace(
        pixel_decoder={"norm": ""},
        predictor={"pre_norm": True, "enc_layers": 1, "deep_supervision": False},
    ),
}
INSTALLED = all(importlib.util.find_spec(name) for name in ("detectron2", "mask_former"))


# Our modules, with the habits of the original's that the adapter is there for.


class TwiceNormedDecoder(TransformerDecoder):
    def forward(self, tgt, memory, pos=None, query_pos=None):
        outputs = []
        for layer in self.layers:
            tgt = layer(tgt, memory, pos, query_pos)
            if self.return_intermediate:
                outputs.append(self.norm(tgt))
        return torch.stack([*outputs[:-1], self.norm(tgt)])


class SinglePositions(PositionEmbeddingSine):
    def forward(self, x, mask=None):
        return super().forward(torch.ones(x.shape, dtype=torch.float32))


class IndirectPixelDecoder(PixelDecoder):
    def forward_features(self, features):
        return super().forward(features)

    def forward(self, features, targets=None):
        raise AssertionError("the original never calls this")


class LastLayerPredictor(TransformerPredictor):
    aux_loss = False

    def forward(self, x, mask_features):
        assert self.aux_loss, "masks of the last layer alone have another shape inside"
        outputs = super().forward(x, mask_features)
        return outputs if self.deep_supervision else {**outputs, "aux_outputs": []}


class RenamingHead(MaskFormerHead):
    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        assert metadata.get("version") == 2, "the keys are taken for those of an older format"
        super()._load_from_state_dict(state, prefix, metadata, *rest)

    def forward(self, features):
        mask_features, encoded = self.pixel_decoder.forward_features(features)
        x = encoded if self.in_feature == "transformer_encoder" else features[self.in_feature]
        return self.predictor(x, mask_features)


class LosingHead(PerPixelBaselineHead):
    common_stride = 4

    def layers(self, features):
        return self.predictor(self.pixel_decoder.forward_features(features)[0])

    def forward(self, features, targets=None):
        return self.layers(features), {}


class LosingPlusHead(PerPixelBaselinePlusHead):
    common_stride = 4
    deep_supervision = True

    def layers(self, features):
        mask_features, encoded = self.pixel_decoder.forward_features(features)
        predictions = self.predictor(encoded, mask_features)
        return predictions["pred_masks"], predictions["aux_outputs"]

    def forward(self, features, targets=None):
        return self.layers(features)[0], {}


class SequentialResNet(ResNet):
    def forward(self, x):
        x = self.stem(x)
        features = {}
        for name in FEATURES:
            x = features[name] = getattr(self, name)(x)
        return features


class OtherAttention(WindowAttention):
    def forward(self, x, mask=None):
        return super().forward(x, mask)


class OtherBlock(SwinTransformerBlock):
    def forward(self, x, mask_matrix):
        return super().forward(x, self.H, self.W, mask_matrix)


class SixResultsStage(BasicLayer):
    def forward(self, x, H, W):
        mask = torch.from_numpy(shift_mask(H, W, self.window)).float()
        for block in self.blocks:
            block.H, block.W = H, W
            x = block(x, mask)
        down = x if self.downsample is None else self.downsample(x, H, W)
        return x, H, W, down, (H + 1) // 2, (W + 1) // 2


class SixResultsSwin(SwinTransformer):
    def forward(self, x):
        x = self.patch_embed(x)
        height, width = x.shape[-2:]
        x = self.pos_drop(x.flatten(2).transpose(1, 2))
        features = {}
        for index, name in enumerate(FEATURES):
            out, H, W, x, height, width = self.layers[index](x, height, width)
            out = getattr(self, f"norm{index}")(out)
            features[name] = out.transpose(1, 2).unflatten(2, (H, W))
        return features


HABITS = {
    other.__base__: other
    for other in (
        *(TwiceNormedDecoder, SinglePositions, IndirectPixelDecoder, LastLayerPredictor),
        *(RenamingHead, LosingHead, LosingPlusHead, SequentialResNet),
        *(OtherAttention, OtherBlock, SixResultsStage, SixResultsSwin),
    )
}


def lookalike(config: ModelConfig) -> nn.Module:
    """Our model with the original's habits; what it computes in float32 is the same."""
    model = torch_reference.build(config)
    for module in list(model.modules()):
        module.__class__ = HABITS.get(type(module), type(module))
    if isinstance(model.backbone, ResNet):
        for name in FEATURES:
            setattr(model.backbone, name, nn.Sequential(*getattr(model.backbone, name)))
    for name in ("pixel_mean", "pixel_std"):
        setattr(model, name, getattr(model, name)[0])
    return model


@pytest.fixture
def mask_former(monkeypatch, tmp_path):
    """A package `mask_former` of lookalikes, in a clone at `tmp_path`; returns the clone."""
    modules = {
        "mask_former": {"__file__": str(tmp_path / "mask_former" / "__init__.py")},
        "mask_former.modeling.backbone.swin": {"BasicLayer": SixResultsStage},
        "mask_former.modeling.transformer.position_encoding": {
            "PositionEmbeddingSine": SinglePositions
        },
        "mask_former.modeling.transformer.transformer": {"TransformerDecoder": TwiceNormedDecoder},
        "mask_former.modeling.transformer.transformer_predictor": {
            "TransformerPredictor": LastLayerPredictor
        },
    }
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return tmp_path


@dataclass(frozen=True)
class Builtin:
    """The built-in model in float64, with its weights, two images, and what it makes of them."""

    weights: Weights
    recorder: Recorder
    inputs: dict[str, np.ndarray]
    outputs: dict
    trace: Trace


@cache
def builtin(config: ModelConfig) -> Builtin:
    weights = load_weights("seeded:1", config)
    recorder = Recorder(build_reference(config, weights, "float64"), REFERENCE_AXES)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 64)).astype(np.float64)
    inputs = {"images": images, "sizes": np.array([[32, 64], [27, 50]])}
    return Builtin(weights, recorder, inputs, *recorder(inputs))


def compare(model: original.Original) -> Comparison:
    """`model` against the built-in one, in float64, with the same weights and images."""
    side = builtin(model.config)
    assert set(model.state_dict()) == set(side.weights.state)
    state = {key: torch.from_numpy(array.copy()) for key, array in side.weights.state.items()}
    model.load_state_dict(state)
    comparison = Comparison(side.trace)
    outputs, _ = Recorder(model.eval().double(), REFERENCE_AXES)(side.inputs, comparison)
    assert set(outputs) == set(side.outputs)
    assert len(comparison.gaps) > 80
    return comparison


def unpaired(found: Comparison) -> list[str]:
    """Keys of the taps that only one side has."""
    return [*found.unpaired, *found.missing()]


def different(found: Comparison) -> list[str]:
    """Keys of the taps that are not the same bit for bit."""
    return [key for key, gap in found.gaps.items() if gap.problem or gap.max > 0.0]


@pytest.mark.parametrize("case", CONFIGS)
def test_every_tap_pairs_with_the_builtin_model_and_has_its_bits(mask_former, case):
    config = CONFIGS[case]
    found = compare(original.Original(lookalike(config), config))
    assert not unpaired(found)
    assert not different(found)


def test_positions_left_in_float32_are_found(mask_former, monkeypatch):
    """The twin: without the promotion to float64 differences begin at the position encoding."""
    monkeypatch.setattr(original, "_InFloat64", original.nullcontext)
    config = CONFIGS["resnet"]
    found = compare(original.Original(lookalike(config), config))
    assert not unpaired(found)
    assert different(found)[0] == "sem_seg_head.pixel_decoder.pe_layer:output"


def test_a_norm_computed_twice_is_found(mask_former, monkeypatch):
    """The twin: without the shadowed norm the decoder's last norm has no counterpart."""
    monkeypatch.setattr(original, "_Once", lambda norm: norm)
    config = CONFIGS["resnet"]
    found = compare(original.Original(lookalike(config), config))
    assert {key.split("@")[0] for key in unpaired(found)} == {
        "sem_seg_head.predictor.transformer.decoder.norm"
    }


def test_padding_does_not_reach_the_predictions(mask_former):
    model = original.Original(lookalike(TINY), TINY).eval()
    images = torch.rand(1, 3, 64, 96) * 255
    sizes = torch.tensor([[50, 70]])
    other = images.clone()
    other[:, :, 50:] = other[:, :, :, 70:] = 7.0
    with torch.no_grad():
        first, second = (model(batch, sizes)["pred_masks"] for batch in (images, other))
        full = model(other, None)["pred_masks"]
    assert torch.equal(first, second)
    assert not torch.equal(second, full)


def test_state_dict_keeps_its_own_format_version(mask_former):
    """A dict that says it has another version is passed on as such, for the original to convert."""
    model = original.Original(lookalike(TINY), TINY)
    state = model.state_dict()
    state._metadata["sem_seg_head"]["version"] = 1
    with pytest.raises(AssertionError, match="older format"):
        model.load_state_dict(state)


def test_source_of_published_models_is_their_own_yaml():
    for entry in zoo.ENTRIES.values():
        config_file, changes = original.source(entry.model)
        if entry.config_file:
            assert changes == {}
            known = next(e for e in zoo.ENTRIES.values() if e.config_file == config_file)
            assert known.model.replace(name="") == entry.model.replace(name="")
        else:
            assert config_file == zoo.get("coco_r50").config_file
            assert changes["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] == entry.model.num_classes


@pytest.mark.parametrize("case", [*CONFIGS, "ade20k_r101c", "ade20k_swin_large", "ade20k_ppplus"])
def test_overrides_say_all_that_fixes_the_function(tmp_path, case):
    """Read back on top of other settings they give the same model."""
    config = CONFIGS[case] if case in CONFIGS else zoo.model_config(case)
    sections = {}
    for key, value in original.overrides(config).items():
        *parents, last = key.split(".")
        inner = sections
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    base = {
        "MODEL": {
            "BACKBONE": {"FREEZE_AT": 0},
            "RESNETS": {"OUT_FEATURES": list(FEATURES), "STEM_TYPE": "basic", "DEPTH": 18},
            "SEM_SEG_HEAD": {"IN_FEATURES": list(FEATURES)},
            "MASK_FORMER": {"SIZE_DIVISIBILITY": config.size_divisibility},
        },
        "INPUT": {"FORMAT": "RGB"},
        "DATASETS": {"TRAIN": ["a"], "TEST": ["b"]},
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"_BASE_": "base.yaml", **sections}))
    found = read(path).model
    plain = {"name": "", "inference": zoo.model_config("ade20k_r50").inference}
    assert found.replace(**plain) == config.replace(**plain)


@pytest.mark.parametrize("missing", ["detectron2", "mask_former"])
def test_missing_package_says_what_to_install(monkeypatch, missing):
    if missing == "mask_former":
        for name in ("detectron2", "detectron2.projects", "detectron2.projects.deeplab"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError) as raised:
        original.build(TINY)
    fact, evidence, action = str(raised.value).split("\n  ")
    assert "MaskFormer" in fact
    assert missing in evidence
    assert "install detectron2" in action
    assert "https://github.com/facebookresearch/MaskFormer" in action


def test_config_path_is_beside_the_package_or_where_the_variable_says(
    mask_former, monkeypatch, tmp_path
):
    monkeypatch.delenv(original.CONFIGS_VARIABLE, raising=False)
    with pytest.raises(InputError, match=original.CONFIGS_VARIABLE):
        original._config_path("coco/a.yaml")
    for folder, variable in (("configs", None), ("elsewhere", "elsewhere")):
        path = tmp_path / folder / "coco" / "a.yaml"
        path.parent.mkdir(parents=True)
        path.touch()
        if variable:
            monkeypatch.setenv(original.CONFIGS_VARIABLE, str(tmp_path / variable))
        assert original._config_path("coco/a.yaml") == path


@pytest.mark.skipif(not INSTALLED, reason="detectron2 and mask_former are not installed")
@pytest.mark.parametrize("case", CONFIGS)
def test_the_original_itself_computes_what_the_builtin_model_does(case):
    found = compare(original.build(CONFIGS[case]))
    assert not unpaired(found)
    side = builtin(CONFIGS[case])
    floors = measure_floors(side.recorder, side.inputs, side.trace)
    assert not [str(one) for one in same_function(found.gaps, floors) if not one.passed]
