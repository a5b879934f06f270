"""Distributed checkpoints that torch writes are read; damaged and hostile ones are one error."""

import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

from parity.errors import InputError
from parity_tests.weight_conversion.samples import CONFIG, as_torch, state
from weight_conversion.checkpoints import open_source
from weight_conversion.convert import convert
from weight_conversion.receipt import receipt_path
from weight_conversion.verification import verify

ODD = "backbone.odd"
SHAPES = {
    "turned": torch.arange(12.0).reshape(3, 4).T,
    "half": torch.arange(6.0).half(),
    "short": torch.arange(5.0).bfloat16(),
    "scalar": torch.tensor(7),
    "empty": torch.zeros(0, 3),
    "mask": torch.tensor([True, False]),
}


def _save(rank: int, folder: str, tensors: dict, world: int) -> None:
    """One of `world` processes, each of which holds some rows of every tensor."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("gloo", f"file://{folder}.rendezvous", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    split = {
        name: distribute_tensor(one, mesh, [Shard(one.dim() - 1)]) if one.dim() else one
        for name, one in tensors.items()
    }
    dcp.save({"model": split, "epoch": 3}, checkpoint_id=folder)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """What one process saves, with an optimizer beside the model."""
    folder = tmp_path_factory.mktemp("alone") / "dcp"
    content = {
        "model": as_torch(state()),
        "optimizer": {"state": [{"step": torch.tensor(1.0)}], "lr": 0.1},
        "epoch": 3,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that a single process saves
        dcp.save(content, checkpoint_id=folder)
    return folder


@pytest.fixture
def spoiled(alone, tmp_path) -> Path:
    """The same folder in a new place, free to spoil."""
    return Path(shutil.copytree(alone, tmp_path / "dcp"))


@pytest.mark.parametrize("named", [".", ".metadata"])
def test_distributed_checkpoint_is_read_as_it_was_saved(named, alone) -> None:
    with open_source(alone / named) as source:
        assert source.kind == "distributed checkpoint"
        assert set(source.left_out) == {"optimizer", "epoch"}
        for name, value in state().items():
            stored = source.tensors[name]
            assert (stored.shape, stored.dtype) == (value.shape, value.dtype.name)
            np.testing.assert_array_equal(stored.load(), value)


def test_distributed_checkpoint_is_converted_and_its_receipt_holds(alone, tmp_path) -> None:
    convert(alone, tmp_path / "a.safetensors", "safetensors", CONFIG)
    assert verify(receipt_path(tmp_path / "a.safetensors", "safetensors")) == []


@pytest.mark.parametrize("world", [2, 3])
def test_distributed_checkpoint_of_several_processes_is_put_together(world, tmp_path) -> None:
    """Columns are split over the processes, unevenly where they do not divide."""
    tensors = {name: torch.randn(5, 7 + number) for number, name in enumerate(("a.w", "b.w"))}
    tensors |= {"a.bias": torch.arange(7.0), "a.count": torch.tensor(3)}
    torch.multiprocessing.spawn(_save, (str(tmp_path / "dcp"), tensors, world), nprocs=world)
    assert len([*(tmp_path / "dcp").glob("*.distcp")]) == world
    with open_source(tmp_path / "dcp") as source:
        for name, value in tensors.items():
            np.testing.assert_array_equal(source.tensors[name].load(), value.numpy())


@pytest.mark.parametrize("name", SHAPES)
def test_distributed_checkpoint_keeps_every_kind_of_tensor(name, tmp_path) -> None:
    value = SHAPES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": {ODD: value}}, checkpoint_id=tmp_path / "dcp")
    with open_source(tmp_path / "dcp") as source:
        found = source.tensors[ODD].load()
    np.testing.assert_array_equal(found.astype(np.float64), value.double().numpy())
    assert found.dtype.name == str(value.dtype).removeprefix("torch.")


def _edited(folder: Path, change) -> None:
    path = folder / ".metadata"
    content = pickle.loads(path.read_bytes())
    change(content, "model.backbone.norm0.weight")
    path.write_bytes(pickle.dumps(content))


def _index(name: str) -> MetadataIndex:
    return MetadataIndex(name, torch.Size([0]))


def _leaves_folder(content, name) -> None:
    content.storage_data[_index(name)].relative_path = "../other.distcp"


def _leaves_file(content, name) -> None:
    content.storage_data[_index(name)].offset = 1 << 60


def _leaves_tensor(content, name) -> None:
    chunk = ChunkStorageMetadata(torch.Size([0]), torch.Size([1 << 40]))
    content.state_dict_metadata[name].chunks = [chunk]


def _lacks_piece(content, name) -> None:
    content.state_dict_metadata[name].chunks = []


def _lies_nowhere(content, name) -> None:
    del content.storage_data[_index(name)]


def _another_piece(content, name) -> None:
    other = name.replace("norm0.weight", "norm1.weight")
    content.storage_data[_index(name)] = content.storage_data[_index(other)]


def _transformed(content, name) -> None:
    content.storage_data[_index(name)].transform_descriptors = ["zstd"]


SPOILT = {
    _leaves_folder: "no file of its folder",
    _leaves_file: "bytes .* are needed",
    _leaves_tensor: "leaves its tensor",
    _lacks_piece: "hold 0 of",
    _lies_nowhere: "lies in no file",
    _another_piece: "is another than stated",
    _transformed: "compressed or otherwise transformed",
}


@pytest.mark.parametrize("change", SPOILT)
def test_distributed_checkpoint_that_contradicts_itself_is_one_error(change, spoiled) -> None:
    _edited(spoiled, change)
    with (
        pytest.raises(InputError, match=SPOILT[change]),
        open_source(spoiled) as source,
    ):
        source.tensors["backbone.norm0.weight"].load()


def test_distributed_checkpoint_with_overlapping_pieces_is_refused(tmp_path) -> None:
    tensors = {"a.w": torch.arange(12.0)}
    torch.multiprocessing.spawn(_save, (str(tmp_path / "dcp"), tensors, 2), nprocs=2)

    def overlap(content, _) -> None:
        first, second = content.state_dict_metadata["model.a.w"].chunks
        data = content.storage_data
        piece = data[MetadataIndex("model.a.w", second.offsets)]
        moved = ChunkStorageMetadata(torch.Size([3]), second.sizes)
        content.state_dict_metadata["model.a.w"].chunks = [first, moved]
        data[MetadataIndex("model.a.w", moved.offsets)] = piece

    _edited(tmp_path / "dcp", overlap)
    with pytest.raises(InputError, match="overlap"), open_source(tmp_path / "dcp") as source:
        source.tensors["a.w"].load()


def test_distributed_checkpoint_runs_nothing(tmp_path) -> None:
    (tmp_path / ".metadata").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(InputError, match=r"asks to run code"):
        open_source(tmp_path)


def test_a_part_of_a_distributed_checkpoint_names_the_folder(spoiled) -> None:
    (piece,) = spoiled.glob("*.distcp")
    with pytest.raises(InputError, match=f"name the folder: {spoiled}"):
        open_source(piece)
    (spoiled / ".metadata").unlink()
    with pytest.raises(InputError, match=r"incomplete distributed checkpoint"):
        open_source(spoiled)
