"""The command beside a claim makes its result again: as recorded, or from what was recorded."""

import pytest

from reports.chapters.runs import RunResult, pair_command, run_command
from reports.derived import claims_of
from reports.loading import of_result

SETTINGS = {"config": "scenes_tiny", "data": "scenes", "steps": 12, "batch": 4, "seed": 0}
RECORDS = {**SETTINGS, "data": "runs/records/train2017"}
FROM_SETTINGS = (
    "parity train --config scenes_tiny --side {} --data scenes --steps 12 --batch 4 --seed 0 "
    "--out DIR"
)


def run(side, settings, command=None):
    return RunResult(
        side=side,
        settings=settings,
        command=command,
        versions={},
        data_sha256=None,
        checkpoint_sha256=None,
        git_commit=None,
    )


def test_a_recorded_command_is_said():
    assert run_command(run("tf", RECORDS, "python -m tf_impl.train")) == "python -m tf_impl.train"
    assert run_command(run("torch", SETTINGS)) == FROM_SETTINGS.format("torch")


def test_a_pair_trained_by_one_command_names_it():
    both = "parity train --side both --dtype float64"
    assert pair_command(run("torch", SETTINGS, both), run("tf", RECORDS, both)) == both


@pytest.mark.parametrize("commands", [(None, None), ("one", "other"), ("one", None)])
def test_a_pair_of_other_commands_is_trained_from_the_data_set_not_from_records(commands):
    theirs, ours = (
        run(side, settings, command)
        for side, settings, command in zip(
            ("torch", "tf"), (SETTINGS, RECORDS), commands, strict=True
        )
    )
    assert pair_command(theirs, ours) == FROM_SETTINGS.format("both")


def test_a_pair_is_trained_with_the_settings_that_were_changed():
    settings = {**SETTINGS, "dtype": "float64", "keep": 3, "solver": {"base_lr": 3e-4}}
    command = pair_command(run("torch", settings), run("tf", settings))
    assert command == FROM_SETTINGS.format("both").replace(
        "--out", "--dtype float64 --solver base_lr=0.0003 --out"
    )


@pytest.mark.parametrize(
    ("path", "name"), [(".", "receipt.json"), ("my model.pth", "'DIR/my model.pth.receipt.json'")]
)
def test_a_receipt_is_verified_where_it_lies(path, name):
    files = {"path": path, "kind": "torch", "files": []}
    receipt = {"format": 1, "tensors": [], "target": files, "source": files}
    receipt |= {"code": {}, "options": {}, "config": {"name": "tiny"}}
    commands = {claim.command for claim in claims_of(of_result(receipt))}
    assert commands == {f"parity convert --verify {name if ' ' in path else 'DIR/' + name}"}
