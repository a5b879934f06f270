"""`parity audit --all`: every entry of the zoo is covered, and one bad architecture shows."""

import dataclasses
import json
from dataclasses import replace

import pytest

from maskformer.model import zoo
from parity.auditing.result import Unpaired
from parity.claims import claim
from parity.measurements import Findings
from replication.forward import every_architecture as audit_all
from reports.chapters.architectures import Architecture, NearestRatio


def test_every_entry_is_covered_once():
    covered = audit_all.architectures()
    assert sorted(name for names in covered.values() for name in names) == sorted(zoo.names())
    assert len(covered) == 14
    assert all(names[0] == representative for representative, names in covered.items())
    assert covered["ade20k_r50"] == [
        "ade20k_r50",
        "ade20k_full_r50",
        "cocostuff_r50",
        "mapillary_r50",
    ]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"num_classes": 140, "size_divisibility": 32, "ignore_value": 7}, True),
        ({"loss": {"mask_weight": 5.0}, "inference": {"object_mask_threshold": 0.1}}, True),
        ({"predictor": {"enforce_input_proj": True}}, False),
        ({"predictor": {"pre_norm": True}}, False),
        ({"predictor": {"num_queries": 50}}, False),
        ({"pixel_decoder": {"norm": ""}}, False),
        ({"backbone": {"res5_dilation": 2}}, False),
        ({"pixel_mean": (0.0, 0.0, 0.0)}, False),
    ],
)
def test_architecture_is_what_computes(change, same):
    config = zoo.model_config("coco_r50")
    changed = audit_all.architecture(config.replace(**change))
    assert (changed == audit_all.architecture(config)) is same


def test_all_is_audited_in_processes_of_their_own(parity, monkeypatch):
    monkeypatch.setattr(audit_all, "architectures", lambda: {"tiny": ["tiny", "scenes_tiny"]})
    status, out, err = parity("audit", "--all", "--json", "--threads", "1")
    result = json.loads(out)
    (row,) = result["architectures"]
    assert status == 0
    assert (result["verdict"], result["entries_covered"], result["size"]) == ("equal", 2, "64x96")
    assert row["covers"] == ["tiny", "scenes_tiny"]
    assert row["taps"] >= 250
    assert 0 < row["nearest"]["value"] <= row["nearest"]["limit"] < 1e-9
    assert 0 < row["peak_memory_gb"] < 12
    assert "[1/1] tiny ... equal" in err


def test_a_fault_makes_its_architecture_different(another_epsilon):
    """The twin: one epsilon in the port, and the row says which module differs first."""
    path = another_epsilon(1, "norm1")
    row, _ = audit_all.audit_one("tiny", "seeded:0", "64x96", None)
    assert row.verdict == "different"
    assert row.first_divergence == path


ROW = Architecture(
    config="tiny",
    covers=("tiny",),
    taps=434,
    unpaired=Unpaired((), ()),
    worst_gap=1e-14,
    worst_tap="a:output",
    nearest=NearestRatio("a:output", "l2", 1e-14, 1e-13, 3.2),
    first_divergence=None,
    verdict="equal",
    seconds=5.0,
    peak_memory_gb=2.0,
    provenance={},
)


@pytest.mark.parametrize(("verdict", "expected"), [("equal", 0), ("different", 1)])
def test_one_different_architecture_decides(parity, monkeypatch, verdict, expected):
    found = Findings(1, [] if verdict == "equal" else ["b"])
    other = replace(ROW, config="coco_r50", verdict=verdict, first_divergence="b")
    rows = {
        "tiny": (ROW, (claim("tiny/same_function", "same", Findings(1, []), "why", "run"),)),
        "coco_r50": (other, (claim("coco_r50/same_function", "same", found, "why", "run"),)),
    }
    monkeypatch.setattr(audit_all, "architectures", lambda: {name: [name] for name in rows})
    monkeypatch.setattr(audit_all, "run_apart", lambda name, *rest: rows[name])
    status, out, _ = parity("audit", "--all")
    lines = out.splitlines()
    assert status == expected
    assert lines[-1].startswith(f"verdict: {verdict}, 2 architectures of 2 entries")
    assert "  first divergence: b" in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--config", "tiny"), "--all does not go with --config"),
        (("--isolate", "--batch", "2"), "--all does not go with --batch, --isolate"),
        (("--set", "A.B=1", "--search", "60s"), "--all does not go with --set, --search"),
        (("--weights", "model.pkl"), "--all does not go with --weights model.pkl"),
        (("--size", "64"), "64"),
    ],
)
def test_options_that_do_not_fit_are_named(parity, words, message):
    status, out, err = parity("audit", "--all", *words)
    assert status == 2
    assert out == ""
    assert message in err


def test_architecture_keeps_every_field_of_a_config():
    """A field that is added to ModelConfig must be considered: it counts unless it is listed."""
    neutral = {"name", "num_classes", "loss", "inference", "size_divisibility", "ignore_value"}
    config = zoo.model_config("ade20k_swin_tiny")
    kept = audit_all.architecture(config)
    for field in dataclasses.fields(config):
        if field.name not in neutral | {"predictor"}:
            assert getattr(kept, field.name) == getattr(config, field.name)
