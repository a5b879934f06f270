"""The committed sample report holds: it follows from its evidence, and is as of today's code."""

import json
import shutil

import pytest

from parity_tests.test_repository import ROOT
from reports.evidence import SCHEMA
from reports.kinds import kind_of

SAMPLE = ROOT / "reports" / "samples" / "demo"
LARGEST = 2_000_000  # bytes of all of it
AGAIN = (
    "made by other code; make its pages again from its evidence: "
    "parity report reports/samples/demo/evidence --out reports/samples/demo"
)


def test_the_sample_is_verified(parity):
    status, out, _ = parity("verify", SAMPLE)
    assert status == 0, f"{out}\n{AGAIN}"


def test_the_sample_has_todays_schema_and_every_rung():
    report = json.loads((SAMPLE / "report.json").read_text(encoding="utf-8"))
    assert report["schema"] == SCHEMA
    assert report["verdict"] == "equal"
    for one in report["evidence"]:
        kind_of(one["schema"], one["file"])
    assert [one["rung"] for one in report["ladder"] if one["verdict"] == "not run"] == []
    claims = {one["id"] for one in report["claims"]}
    assert {"isolated_function", "train_gradients_isolated"} <= claims


def test_the_sample_is_small():
    files = [*SAMPLE.glob("report.*"), *(SAMPLE / "evidence").rglob("*")]
    sizes = [path.stat().st_size for path in files if path.is_file()]
    assert sum(sizes) < LARGEST


def test_the_sample_names_its_own_folder_where_it_names_one():
    """Places of a machine are forbidden in every tracked file (test_repository.py)."""
    texts = [*SAMPLE.glob("report.*"), *(SAMPLE / "evidence").rglob("*.json")]
    assert [path for path in texts if ".partial" in path.read_text(encoding="utf-8")] == []
    runs = [json.loads(path.read_text()) for path in texts if path.name == "run.json"]
    assert len(runs) == 2
    for run in runs:
        assert run["settings"]["initial"].startswith("reports/samples/demo/kept/")
        assert "--data reports/samples/demo/kept/scenes " in run["command"]


@pytest.mark.parametrize("name", ["report.html", "report.md", "report.json", "evidence"])
def test_an_edited_copy_of_the_sample_is_not_verified(name, tmp_path, parity):
    folder = tmp_path / "copy"
    shutil.copytree(SAMPLE, folder, ignore=shutil.ignore_patterns("kept"))
    path = folder / name
    if name == "evidence":
        path = next(path.glob("*-audit.json"))
    text = path.read_text(encoding="utf-8")
    place = text.rindex("holds")
    path.write_text(f"{text[:place]}fails{text[place + 5 :]}", encoding="utf-8")
    status, out, _ = parity("verify", folder)
    assert status == 1
    assert path.name in out
