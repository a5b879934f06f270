"""The committed sample report holds: it follows from its evidence, and is as of today's code."""

import json
import shutil

import pytest

from parity_tests.test_repository import ROOT
from reports.evidence import KINDS
from reports.render import SCHEMA

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
    assert report["verdict"] == "holds"
    assert {one["schema"] for one in report["evidence"]} <= set(KINDS)
    assert [one["rung"] for one in report["ladder"] if one["verdict"] == "not run"] == []
    claims = {one["id"] for one in report["claims"]}
    assert {"isolated_function", "train_gradients_isolated"} <= claims


def test_the_sample_is_small():
    sizes = [path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()]
    assert sum(sizes) < LARGEST


@pytest.mark.parametrize("name", ["report.html", "report.md", "report.json", "evidence"])
def test_an_edited_copy_of_the_sample_is_not_verified(name, tmp_path, parity):
    folder = tmp_path / "copy"
    shutil.copytree(SAMPLE, folder)
    path = folder / name
    if name == "evidence":
        path = next(path.glob("*-audit.json"))
    text = path.read_text(encoding="utf-8")
    place = text.rindex("holds")
    path.write_text(f"{text[:place]}fails{text[place + 5 :]}", encoding="utf-8")
    status, out, _ = parity("verify", folder)
    assert status == 1
    assert path.name in out
