"""The zoo says what was published, and nothing else."""

import json
import re

import pytest
import typer
from typer.testing import CliRunner

from maskformer import ade20k
from maskformer.model import zoo
from maskformer.model.config import ResNetConfig, SwinConfig
from parity.errors import InputError
from parity_tests import golden_files
from replication.commands.zoo import register

GROUPS = sorted(path.stem for path in golden_files.DIRECTORY.glob("optim_groups/*.json"))
SPECS = sorted(path.stem for path in golden_files.DIRECTORY.glob("state_spec/*.json"))
SCHEDULES = golden_files.read_json("golden_lr.json")


@pytest.fixture(scope="module")
def run():
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return lambda *words: CliRunner(env={"COLUMNS": "200"}).invoke(app, ["zoo", *words])


def test_zoo_has_the_30_published_configs_and_three_small_ones() -> None:
    published = [entry for entry in zoo.ENTRIES.values() if entry.published]
    assert len(published) == 30
    assert set(zoo.names()) - {entry.name for entry in published} == {
        "tiny",
        "scenes_tiny",
        "scenes_r50",
    }
    assert len({entry.config_file for entry in published}) == 30
    assert len({entry.published.md5_prefix for entry in published}) == 30
    assert len({entry.settings for entry in published}) == 30


def test_every_golden_config_is_a_zoo_name() -> None:
    assert set(SPECS) <= set(zoo.names())
    assert set(GROUPS) <= set(zoo.names())


@pytest.mark.parametrize("name", zoo.names())
def test_entry_is_consistent(name: str) -> None:
    entry = zoo.get(name)
    assert entry.model.name == name
    assert entry.model.is_per_pixel == ("_pp" in name)
    if entry.model.head == "PerPixelBaselinePlusHead":
        assert entry.model.predictor.num_queries == entry.model.num_classes
    assert isinstance(entry.model.backbone, SwinConfig if "swin" in name else ResNetConfig)
    assert json.loads(json.dumps(entry.to_dict()))["model"]["name"] == name
    if entry.published:
        assert re.fullmatch(r"[0-9a-f]{6}", entry.published.md5_prefix)
        assert entry.published.metric == ("PQ" if entry.model.inference.panoptic_on else "mIoU")
        better = entry.published.multi_scale
        assert better is None or better > entry.published.value


@pytest.mark.parametrize("name", GROUPS)
def test_solver_equals_the_golden_one(name: str) -> None:
    solver, golden = zoo.get(name).solver, golden_files.read_json(f"optim_groups/{name}.json")
    for key in ("base_lr", "backbone_multiplier", "weight_decay", "weight_decay_norm", "eps"):
        value = getattr(solver, key)
        assert value == golden[key], f"{key} is {value}, but should be {golden[key]} [{name}]"
    clip = {"enabled": True, "type": solver.clip_type, "value": solver.clip_value}
    assert clip == golden["clip"]


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) & set(zoo.names())))
def test_schedule_equals_the_golden_one(name: str) -> None:
    solver, golden = zoo.get(name).solver, SCHEDULES[name]
    assert solver.schedule == golden["name"]
    for key in ("base_lr", "max_iter", "warmup_iters", "warmup_factor", "warmup_method"):
        assert getattr(solver, key) == golden[key], f"{key} [{name}]"
    if solver.schedule == "WarmupMultiStepLR":
        assert list(solver.steps) == golden["steps"]


def test_ade20k_panoptic_has_100_things() -> None:
    assert len(set(ade20k.THING_IDS)) == 100
    assert list(ade20k.THING_IDS) == sorted(ade20k.THING_IDS)
    assert max(ade20k.THING_IDS) == 149


def test_get_names_the_nearest_of_an_unknown_config() -> None:
    with pytest.raises(InputError) as caught:
        zoo.get("coco_r5O")
    assert str(caught.value).splitlines() == [
        "no config is called 'coco_r5O'",
        "  nearest: coco_r50, coco_r101, cocostuff_r50",
        "  `parity zoo` lists all 33",
    ]


@pytest.mark.parametrize(
    ("file_name", "prefix"),
    [("model_final_6f60dc.pkl", "6f60dc"), ("model_final.pkl", None), ("weights_12345.pth", None)],
)
def test_md5_prefix_is_read_from_a_file_name(file_name: str, prefix: str | None) -> None:
    assert zoo.md5_prefix(file_name) == prefix


def test_command_lists_all_entries_as_json(run) -> None:
    result = run("--json")
    assert result.exit_code == 0
    assert [entry["name"] for entry in json.loads(result.stdout)["entries"]] == list(zoo.names())


def test_command_shows_one_entry_as_json(run) -> None:
    result = run("coco_r50", "--json")
    shown = json.loads(result.stdout)
    assert shown.pop("schema").endswith("/zoo-entry/1")
    assert shown == json.loads(json.dumps(zoo.get("coco_r50").to_dict()))


def test_command_prints_tables(run) -> None:
    listing = run().stdout
    assert all(name in listing for name in zoo.names())
    details = run("ade20k_r101c").stdout
    assert "model_final_b432ea.pkl" in details
    assert "deeplab" in details


def test_command_refuses_an_unknown_name(run) -> None:
    result = run("nonsense")
    assert isinstance(result.exception, InputError)
