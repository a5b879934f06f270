"""What trainers leave around a model: it is found, and everything else is left out by name."""

import argparse
import collections
import enum
import json
import pathlib
from pathlib import Path

import numpy as np
import pytest

from parity.errors import InputError
from parity_tests.weight_conversion.samples import as_torch, write_safetensors, write_torch
from weight_conversion.checkpoints import Source, open_source
from weight_conversion.stored import Region
from weight_conversion.unwrapping import Choice

TENSORS = {
    "backbone.norm0.weight": np.arange(12, dtype=np.float32),
    "sem_seg_head.predictor.query_embed.weight": np.ones((5, 32), np.float32),
}


class Mode(enum.Enum):
    """A value of a class of the program that saved."""

    SEGMENT = 1


def weights() -> dict:
    return as_torch(TENSORS)


def renamed(change) -> dict:
    return {change(name): tensor for name, tensor in weights().items()}


def opened(path: Path, **choice) -> Source:
    with open_source(path, Choice(**choice)) as source:
        assert sorted(source.tensors) == sorted(TENSORS)
        for name, tensor in source.tensors.items():
            np.testing.assert_array_equal(tensor.load(), TENSORS[name])
        return source


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"model.{name}",
        lambda name: f"net.{name}",
        lambda name: name.replace(".norm0", "._fsdp_wrapped_module.norm0"),
        lambda name: name.replace("predictor.", "predictor._checkpoint_wrapped_module."),
        lambda name: f"_orig_mod.{name}".replace("backbone.", "backbone.model.module."),
    ],
)
def test_what_wrappers_put_into_names_is_removed(change, tmp_path: Path) -> None:
    assert opened(write_torch(tmp_path / "a.pth", renamed(change))).notes


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    both = weights() | renamed(lambda name: f"module.{name}")
    with pytest.raises(InputError, match="two tensors that would be called"):
        opened(write_torch(tmp_path / "a.pth", both))
    opened(tmp_path / "a.pth", prefix="module.")


def test_loose_tensors_beside_a_wrapper_are_left_out(tmp_path: Path) -> None:
    import torch

    content = {"loss": torch.tensor(0.5), "ema_decay": torch.ones(1), "state_dict": weights()}
    source = opened(write_torch(tmp_path / "a.pth", content))
    assert source.left_out == {"loss": "beside the model", "ema_decay": "beside the model"}


def test_a_count_beside_an_averaged_model_is_left_out(tmp_path: Path) -> None:
    import torch

    content = renamed(lambda name: f"module.{name}") | {"updates": torch.tensor(7)}
    source = opened(write_torch(tmp_path / "a.pth", content))
    assert source.left_out == {"updates": "a number beside the model"}


def test_a_tensor_without_a_wrapper_s_prefix_is_no_count(tmp_path: Path) -> None:
    import torch

    content = renamed(lambda name: f"module.{name}") | {"proto": torch.ones(3)}
    with open_source(write_torch(tmp_path / "a.pth", content)) as source:
        assert "proto" in source.tensors


def test_a_key_and_a_prefix_choose(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "a.pth", {"teacher": renamed(lambda n: f"student.{n}"), "n": {}})
    with pytest.raises(InputError, match="take one with --key: teacher"):
        opened(path)
    source = opened(path, key="teacher", prefix="student.")
    assert source.left_out == {"n": "not the model"}
    with pytest.raises(InputError, match="no weights at --key nothing"):
        opened(path, key="nothing")
    with pytest.raises(InputError, match="names begin with student"):
        opened(path, key="teacher", prefix="other.")


def test_objects_beside_the_weights_are_inert(tmp_path: Path) -> None:
    import torch

    objects = {
        "options": argparse.Namespace(lr=1e-4, nested=argparse.Namespace(x=[1])),
        "out": pathlib.PurePosixPath("runs/1"),
        "kind": torch.bfloat16,
        "place": torch.device("cuda:1"),
        "mode": Mode.SEGMENT,
        "names": np.array(["a", "b"], dtype=object),
        "words": np.array(["ab", "c"]),
        "spectrum": np.ones(2, np.complex64),
        "function": torch.nn.functional.relu,
    }
    plain = {"history": collections.defaultdict(list, loss=[1.0])}
    for legacy in (False, True):
        path = tmp_path / f"{legacy}.pth"
        content = {"model": weights(), **objects, **plain}
        source = opened(write_torch(path, content, _use_new_zipfile_serialization=not legacy))
        assert sorted(source.left_out) == sorted((*objects, *plain))
        assert source.left_out["options"] == "not the model: argparse.Namespace"
        assert source.left_out["history"] == "not the model"


def test_an_object_in_the_place_of_the_model_is_refused_and_not_called_damaged(tmp_path) -> None:
    path = write_torch(tmp_path / "a.pth", {"model": argparse.Namespace(w=weights())})
    with pytest.raises(InputError, match="is refused") as caught:
        opened(path)
    assert "damaged" not in str(caught.value)


def test_views_of_one_storage_are_read_once(tmp_path: Path, monkeypatch) -> None:
    import torch

    flat = torch.arange(40_000, dtype=torch.float32)
    views = {f"w{i}": flat[4 * i : 4 * i + 4].view(2, 2).t() for i in range(10_000)}
    path = write_torch(tmp_path / "a.pth", {"model": views})
    read = []
    before = Region.read_array
    monkeypatch.setattr(Region, "read_array", lambda r: read.append(r.size) or before(r))
    with open_source(path) as source:
        loaded = {name: tensor.load() for name, tensor in source.tensors.items()}
    for name, view in views.items():
        np.testing.assert_array_equal(loaded[name], view.numpy())
    assert sum(read) < 8 * path.stat().st_size


def test_a_flipped_bit_below_a_view_is_found(tmp_path: Path) -> None:
    import torch

    flat = torch.arange(4000, dtype=torch.float32)
    path = write_torch(tmp_path / "a.pth", {"a": flat[:4], "b": flat[4:]})
    raw = bytearray(path.read_bytes())
    raw[raw.index(flat[2000:2010].numpy().tobytes())] ^= 1
    path.write_bytes(raw)
    with open_source(path) as source, pytest.raises(InputError, match="the checksum of the"):
        source.tensors["a"].load()


def test_repeated_elements_are_read(tmp_path: Path) -> None:
    import torch

    content = {
        "row": torch.arange(4.0).expand(3, 4),
        "one": torch.tensor(2.5).expand(5),
        "overlapping": torch.arange(10.0).as_strided((4, 3), (2, 1)),
        "other type": torch.from_numpy(np.arange(6, dtype=np.uint16).reshape(2, 3)),
    }
    with open_source(write_torch(tmp_path / "a.pth", content)) as source:
        for name, tensor in content.items():
            np.testing.assert_array_equal(source.tensors[name].load(), tensor.numpy())


class OnATpu:
    """Pickled as torch_xla's tensors are: an array of numpy, and the type it had."""

    def __init__(self, array: np.ndarray, dtype: object) -> None:
        self.parts = (array, dtype)

    def __reduce__(self) -> tuple:
        import torch

        return torch._utils._rebuild_device_tensor_from_numpy, (*self.parts, "xla:0", False)


def test_tensors_of_a_tpu_are_read(tmp_path: Path) -> None:
    import torch

    content = {
        "w": OnATpu(np.arange(3, dtype=np.float32), torch.float32),
        "half": OnATpu(np.ones(2, np.float32), torch.bfloat16),
    }
    with open_source(write_torch(tmp_path / "a.pth", content)) as source:
        np.testing.assert_array_equal(source.tensors["w"].load(), [0, 1, 2])
        assert (
            source.tensors["half"].dtype == source.tensors["half"].load().dtype.name == "bfloat16"
        )


# Folders
def test_folders_of_trainers_are_read(tmp_path: Path) -> None:
    (tmp_path / "d2").mkdir()
    for name in ("model_0000999.pth", "model_0001999.pth"):
        write_torch(tmp_path / "d2" / name, {"model": weights()})
    with pytest.raises(InputError, match="2 files that may be checkpoints"):
        opened(tmp_path / "d2")
    (tmp_path / "d2" / "last_checkpoint").write_text("model_0001999.pth\n")
    assert opened(tmp_path / "d2").files == [tmp_path / "d2" / "model_0001999.pth"]
    (tmp_path / "one").mkdir()
    write_torch(tmp_path / "one" / "pytorch_model.bin", weights())
    opened(tmp_path / "one")
    (tmp_path / "lone").mkdir()
    write_torch(tmp_path / "lone" / "epoch=3.ckpt", {"state_dict": weights()})
    opened(tmp_path / "lone")


def test_shards_need_no_config(tmp_path: Path) -> None:
    index = {}
    for number, (name, array) in enumerate(TENSORS.items(), 1):
        shard = f"model-0000{number}-of-00002.safetensors"
        write_safetensors(tmp_path / shard, {f"module.{name}": array})
        index[f"module.{name}"] = shard
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    assert opened(tmp_path).files == opened(path).files
    path.write_text(json.dumps({"weight_map": {"a": "absent.safetensors"}}))
    with pytest.raises(InputError, match=r"absent\.safetensors cannot be read"):
        opened(path)
