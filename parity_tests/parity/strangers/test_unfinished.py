"""An audit that is killed leaves what it had found; one that ends leaves its result alone."""

import json
import subprocess
import sys
import time

import pytest

from parity.auditing.unfinished import FILE, Unfinished, read_unfinished
from parity.errors import InputError
from parity_tests.docs.documents import ROOT

PAIR = """
import numpy as np, torch
from torch import nn
from parity import Names, Pair
from parity_tests.parity.strangers.models import numbers, varied

class Part(nn.Module):
    mistake = False
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))
    def forward(self, x):
        y = torch.tanh(x * self.weight) @ torch.softmax(x.transpose(1, 2) @ x, -1)
        return torch.sin(3.0 * y) if self.mistake else y

def model(mistake):
    made = varied(lambda: nn.Sequential(*(Part() for _ in range(40))))
    for part in made:
        part.mistake = mistake
    return made

pair = Pair(model(False), model(True), (numbers(2, 5, 6),), names=Names())
"""


def command(verb, *words):
    return [sys.executable, "-m", "replication.cli", verb, *words]


def test_a_killed_audit_leaves_the_places_that_it_had_found(tmp_path):
    (tmp_path / "compare.py").write_text(PAIR)
    out = tmp_path / "out"
    audit = command("audit", "--pair", f"{tmp_path / 'compare.py'}:pair", "--out", str(out))
    running = subprocess.Popen([*audit, "--execution", ""], cwd=ROOT, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 240
    found = None
    while time.monotonic() < end and running.poll() is None and not (found and found.places):
        time.sleep(0.1)
        found = read_unfinished(out)
    assert running.poll() is None, "the audit ended before it could be killed"
    running.kill()
    running.wait()
    left = read_unfinished(out)
    assert 0 < len(left.places) < 40
    assert len(left.differing) > 40
    assert not (out / "audit.json").exists()
    told = subprocess.run(
        command("explain", str(out)), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert told.returncode == 1, told.stderr
    assert "ended before its result was written" in told.stdout
    assert f"1. {left.places[0].path} computes something else" in told.stdout
    done = subprocess.run([*audit, "--execution", "", "--search", "1s"], cwd=ROOT, check=False)
    assert done.returncode == 1
    assert (out / "audit.json").is_file()
    assert not (out / FILE).exists()


def test_what_was_left_is_read_as_it_was_written(tmp_path):
    assert read_unfinished(tmp_path) is None
    kept = Unfinished(tmp_path, "parity audit")
    kept.tell("weights: a: other values")
    kept.measured(["a:output"])
    again = read_unfinished(tmp_path)
    assert (again.told, again.differing, again.places) == (kept.told, ["a:output"], [])
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**content, "places": [{"path": 3}]}))
    with pytest.raises(InputError, match="is no unfinished audit"):
        read_unfinished(tmp_path)
    kept.end()
    assert read_unfinished(tmp_path) is None
