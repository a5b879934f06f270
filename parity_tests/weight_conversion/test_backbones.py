"""ImageNet backbones under other projects' names end up under the state dict's."""

from pathlib import Path

import numpy as np
import pytest

from maskformer.model import zoo
from maskformer.model.config import ResNetConfig, SwinConfig
from parity.errors import InputError
from parity_tests.weight_conversion.samples import CONFIG, as_torch, write_pickle, write_torch
from weight_conversion import backbones
from weight_conversion.checkpoints import open_source
from weight_conversion.convert import convert
from weight_conversion.plan import make_plan
from weight_conversion.spec import expected
from weight_conversion.verification import verify

RESNET = CONFIG.replace(
    name="resnet", backbone=ResNetConfig(depth=18, res2_out_channels=64), num_classes=2
)
RESNET_MARK = "backbone.res2.0.conv1.weight"


def random_state(config, prefix: str = "backbone.") -> dict[str, np.ndarray]:
    generator = np.random.default_rng(5)
    return {
        name: spec.constant() if spec.constant else generator.random(spec.shape, np.float32)
        for name, spec in expected(config).items()
        if name.startswith(prefix)
    }


def result(path: Path, config) -> dict[str, np.ndarray]:
    with open_source(path) as opened:
        plan = make_plan(opened, config)
        return {pair.spec.name: pair.combine(pair.load_sources()) for pair in plan.pairs}


def torchvision_name(name: str) -> str:
    """The inverse of what is tested, written out separately."""
    name = name.removeprefix("backbone.").removeprefix("stem.")
    for stage in (2, 3, 4, 5):
        name = name.replace(f"res{stage}.", f"layer{stage - 1}.")
    name = name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
    for number in (1, 2, 3):
        name = name.replace(f"conv{number}.norm.", f"bn{number}.")
    return name


def test_torchvision_names() -> None:
    assert torchvision_name(RESNET_MARK) == "layer1.0.conv1.weight"
    assert torchvision_name("backbone.stem.conv1.norm.bias") == "bn1.bias"
    assert torchvision_name("backbone.res3.0.shortcut.norm.bias") == "layer2.0.downsample.1.bias"


@pytest.fixture(scope="module")
def resnet() -> dict[str, np.ndarray]:
    return random_state(RESNET)


def classifier(names, counters: bool = True) -> dict[str, np.ndarray]:
    extra = {"fc.weight": np.zeros((10, 512), "f4"), "fc.bias": np.zeros(10, "f4")}
    variances = [name for name in names if name.endswith("running_var")] if counters else []
    return extra | {
        name.replace("running_var", "num_batches_tracked"): np.array(3) for name in variances
    }


def test_torchvision_file_is_renamed_and_its_classifier_left_out(resnet, tmp_path) -> None:
    renamed = {torchvision_name(name): array for name, array in resnet.items()}
    path = write_torch(tmp_path / "resnet.pth", as_torch(renamed | classifier(renamed)))
    found = result(path, RESNET)
    assert list(found) == list(resnet)
    assert all(found[name].tobytes() == resnet[name].tobytes() for name in resnet)
    with open_source(path) as opened:
        left_out = make_plan(opened, RESNET).left_out
    assert left_out["fc.weight"] == "the classifier"
    assert len(left_out) == 2 + sum(name.endswith("running_var") for name in resnet)


@pytest.mark.parametrize("name", ["ade20k_r50", "ade20k_r101", "ade20k_r101c"])
@pytest.mark.parametrize("source", ["torchvision", "detectron2"])
def test_published_depths_are_renamed_one_to_one(name, source) -> None:
    keys = [key for key in expected(zoo.model_config(name)) if key.startswith("backbone.")]
    if source == "torchvision":
        keys = [key for key in keys if ".stem.conv2" not in key and ".stem.conv3" not in key]
        given = {torchvision_name(key): key for key in keys}
        dropped = ["fc.weight", "fc.bias", "bn1.num_batches_tracked"]
    else:
        given = {key.removeprefix("backbone."): key for key in keys}
        dropped = ["stem.fc.weight", "stem.fc.bias"]
    found, left_out = backbones.rename([*given, *dropped])
    assert found == {key: given_name for given_name, key in given.items()}
    assert list(left_out) == dropped
    assert backbones.is_backbone(given)


def test_detectron2_file_gains_its_prefix(resnet, tmp_path) -> None:
    names = {name.removeprefix("backbone."): array for name, array in resnet.items()}
    extra = {f"stem.{name}": array for name, array in classifier(names, False).items()}
    content = {"model": names | extra, "__author__": "torchvision", "matching_heuristics": True}
    found = result(write_pickle(tmp_path / "R-18.pkl", content), RESNET)
    assert all(found[name].tobytes() == resnet[name].tobytes() for name in resnet)


def test_backbone_becomes_a_tf_checkpoint_of_the_backbone(resnet, tmp_path) -> None:
    names = {name.removeprefix("backbone."): array for name, array in resnet.items()}
    path = write_pickle(tmp_path / "R-18.pkl", {"model": names, "__author__": "x"})
    convert(path, tmp_path / "tf", "tf", RESNET)
    assert verify(tmp_path / "tf" / "receipt.json") == []
    found = result(tmp_path / "tf", RESNET)
    assert all(found[name].tobytes() == resnet[name].tobytes() for name in resnet)


def test_backbone_with_a_block_missing_is_refused(resnet, tmp_path) -> None:
    names = {n: a for n, a in resnet.items() if not n.startswith("backbone.res5.1.conv2.norm")}
    path = write_pickle(tmp_path / "a.pkl", {"model": names})
    with pytest.raises(InputError, match=r"4 missing: backbone\.res5\.1\.conv2\.norm\.weight"):
        result(path, RESNET)


def swin_file(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As microsoft/Swin-Transformer publishes: no norm per output, a classifier, shift masks."""
    names = {name.removeprefix("backbone."): array for name, array in tensors.items()}
    own = {name: array for name, array in names.items() if not name.startswith("norm")}
    return own | {
        "norm.weight": np.ones(96, "f4"),
        "norm.bias": np.zeros(96, "f4"),
        "head.weight": np.zeros((10, 96), "f4"),
        "head.bias": np.zeros(10, "f4"),
        "layers.2.blocks.1.attn_mask": np.zeros((4, 16, 16), "f4"),
    }


def test_swin_file_leaves_the_output_norms_to_their_initialisation(tmp_path) -> None:
    tensors = random_state(CONFIG)
    path = write_torch(tmp_path / "swin.pth", {"model": as_torch(swin_file(tensors))})
    found = result(path, CONFIG)
    kept = [name for name in tensors if not name.startswith("backbone.norm")]
    assert list(found) == kept
    assert all(found[name].tobytes() == tensors[name].tobytes() for name in kept)
    with open_source(path) as opened:
        plan = make_plan(opened, CONFIG)
    assert sum("keeps its initialisation; a classifier" in note for note in plan.notes) == 8
    assert len(plan.left_out) == 5


def test_swin_tables_are_resized_to_another_window(tmp_path) -> None:
    wider = CONFIG.replace(backbone={"window_size": 6})
    tensors = random_state(CONFIG)
    path = write_torch(tmp_path / "swin.pth", {"model": as_torch(swin_file(tensors))})
    receipt = convert(path, tmp_path / "a.safetensors", "safetensors", wider)
    assert verify(tmp_path / "a.safetensors.receipt.json") == []
    table = "backbone.layers.2.blocks.1.attn.relative_position_bias_table"
    rules = {entry.name: entry.rule for entry in receipt.tensors}
    assert rules[table] == "bicubic from 49 to 121 rows"
    index = table.replace("bias_table", "index")
    assert rules[index] == "constant of the model"
    found = result(tmp_path / "a.safetensors", wider)
    assert found[table].shape == (121, 3)
    np.testing.assert_array_equal(found[index], expected(wider)[index].constant())


def test_resized_table_keeps_constants_and_symmetry() -> None:
    flat = np.full((49, 2), 0.3, np.float32)
    gap = np.abs(backbones.resize_bias_table(flat, 529) - 0.3).max()
    limit = 16 * np.finfo(np.float32).eps  # sixteen weighted neighbours that sum to one
    assert gap < limit, f"a constant table changes by {gap:.1e}, but should stay within {limit:.1e}"
    table = np.random.default_rng(0).random((49, 1), np.float32)
    mirrored = backbones.resize_bias_table(table[::-1], 529)[::-1]
    gap = np.abs(mirrored - backbones.resize_bias_table(table, 529)).max()
    assert gap < limit, f"mirroring changes the table by {gap:.1e}, limit {limit:.1e}"


def test_a_table_of_other_heads_is_an_error_not_a_resize(tmp_path) -> None:
    other = CONFIG.replace(
        backbone=SwinConfig(
            embed_dim=12, depths=(1, 1, 2, 1), num_heads=(2, 2, 3, 4), window_size=4
        )
    )
    path = write_torch(tmp_path / "a.pth", as_torch(swin_file(random_state(CONFIG))))
    with pytest.raises(InputError, match=r"is \[49, 1\], expected \[49, 2\]"):
        result(path, other)


def test_library_folder_cannot_hold_a_backbone_alone(tmp_path) -> None:
    path = write_torch(tmp_path / "a.pth", as_torch(random_state(CONFIG)))
    with pytest.raises(InputError, match="is a backbone alone"):
        convert(path, tmp_path / "hf", "hf", CONFIG)
