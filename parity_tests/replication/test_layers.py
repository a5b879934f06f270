"""A verb says which layer it misses; any other missing module is a failure of the program."""

import ast
import re
import subprocess
import sys

import pytest

from parity_tests.test_repository import FLOORS, ROOT, imports, tracked
from parity_tests.test_wheel import PRODUCT
from replication.layers import LAYERS, layer_error

PROGRAM = """
import sys
sys.argv[0], missing = "parity", sys.argv.pop(1)
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from replication.cli import main
main()
"""
PROJECT = (ROOT / "pyproject.toml").read_text()
PACKAGED_AS = {"PIL": "pillow", "yaml": "pyyaml"}  # imported by another name than installed


def without(package: str, *words: str) -> subprocess.CompletedProcess:
    """Runs `parity` in a process in which the package cannot be imported."""
    command = [sys.executable, "-c", PROGRAM, package, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("package", "words", "layer"),
    [
        ("torch", ["audit", "--config", "tiny"], "torch"),
        ("tensorflow", ["faults", "list"], "tf"),
        ("official", ["preflight", "--config", "tiny"], "model-garden"),
    ],
)
def test_a_verb_names_its_missing_layer(package, words, layer):
    run = without(package, *words)
    assert run.returncode == 2, run.stderr
    fact, evidence, action = run.stderr.splitlines()[-3:]
    assert fact == f"parity: this needs the layer `{layer}`, which is not installed"
    assert evidence == f"  No module named '{package}'"
    assert action.startswith(f"  pip install 'maskformer-replication[{layer}]'")


def test_another_missing_module_is_a_failure():
    run = without("maskformer.model.config", "zoo")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: No module named 'maskformer.model.config'"
    )


@pytest.mark.parametrize("name", [None, "torch.nothing", "maskformer", "somewhere"])
def test_only_packages_of_a_layer_are_asked_for(name):
    assert layer_error(ModuleNotFoundError("no", name=name)) is None


def test_every_layer_can_be_installed():
    extras = PROJECT.partition("[project.optional-dependencies]")[2].partition("[project.scripts]")[
        0
    ]
    assert set(LAYERS.values()) <= set(re.findall(r"^([\w-]+) = \[", extras, re.M))


def test_every_imported_package_is_of_the_base_or_of_a_layer():
    (block,) = re.findall(r"^dependencies = (\[.*?\])$", PROJECT, re.S | re.M)
    known = {*ast.literal_eval(block), *LAYERS, *FLOORS, *sys.stdlib_module_names}
    known |= {"pytest", "detectron2", "mask_former"}  # the plugin's host; the original
    product = [name for name in tracked(".py") if name.partition("/")[0] in PRODUCT]
    found = {
        PACKAGED_AS.get(top, top)
        for name in product
        for module, _ in imports((ROOT / name).read_text())
        for top in [module.partition(".")[0]]
    }
    assert found <= known
