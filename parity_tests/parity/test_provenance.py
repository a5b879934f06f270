"""Provenance is true, complete as JSON, and loads nothing."""

import json
import os
import subprocess
import sys
from importlib import metadata

import numpy as np

from parity.provenance import git_state, provenance


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_versions_of_the_frameworks_that_are_loaded_are_recorded(monkeypatch):
    monkeypatch.delitem(sys.modules, "parity.frameworks.flax", raising=False)
    assert "flax" not in provenance()["packages"]
    monkeypatch.setitem(sys.modules, "parity.frameworks.flax", sys)
    assert provenance()["packages"]["flax"] == metadata.version("flax")


def test_provenance_is_json_and_holds_what_the_caller_adds():
    found = provenance(seed=7, config="tiny")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["seed"], found["config"]) == (7, "tiny")
    assert found["packages"]["numpy"] == np.__version__
    assert found["cpu"]


def test_provenance_loads_no_framework():
    script = (
        "import sys, json; from parity.provenance import provenance; p = provenance();"
        "print(json.dumps([p['torch'], p['tensorflow'], bool(p['packages']['torch']),"
        "sorted({'torch', 'tensorflow', 'tf_keras'} & set(sys.modules))]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [None, None, True, []]


def test_provenance_tells_flags_of_loaded_frameworks():
    import tensorflow as tf
    import torch

    import tf_impl  # noqa: F401

    found = provenance()
    assert found["torch"]["threads"] == torch.get_num_threads()
    assert found["tensorflow"]["tensor_float_32"] == (
        tf.config.experimental.tensor_float_32_execution_enabled()
    )


def test_git_state_follows_the_work_tree(tmp_path):
    assert git_state(tmp_path) == {"commit": None, "dirty": None}
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == {"commit": None, "dirty": None}
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    assert git_state(tmp_path) == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path)["dirty"] is True


def test_git_state_writes_nothing_to_the_work_tree(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    os.utime(tmp_path / "a", (1, 1))  # git would remember the file's new time
    before = (tmp_path / ".git" / "index").read_bytes()
    assert git_state(tmp_path)["dirty"] is False
    assert (tmp_path / ".git" / "index").read_bytes() == before


def test_git_state_is_not_that_of_a_work_tree_around_an_installation(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "b.py").write_text("")
    assert git_state(installed) == {"commit": None, "dirty": None}


def test_the_own_git_state_is_asked_for_once_and_another_each_time(tmp_path, monkeypatch):
    """An audit asks for provenance with every trace, and a status takes long in a large tree."""
    git(tmp_path, "init")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")
    own = provenance()["git"]
    asked, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **more: (asked.append(a), run(*a, **more))[1])
    assert provenance()["git"] == own
    assert asked == []
    assert not provenance(tmp_path)["git"]["dirty"]
    (tmp_path / "file").write_text("two")
    assert provenance(tmp_path)["git"]["dirty"]
