"""`import parity` needs NumPy alone and shows what the engine offers, with examples that run."""

import doctest
import inspect
import pydoc
import re
import subprocess
import sys

import pytest

import parity

PUBLIC = [name for name in parity.__all__ if not name.startswith("_")]
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {allowed!r}:
            raise ModuleNotFoundError(f"refused: {{name}}", name=name)
sys.meta_path.insert(0, Refuse())
import parity
found = [getattr(parity, name) for name in parity.__all__]
print(parity.__version__)
"""


def alone(*allowed: str) -> subprocess.CompletedProcess:
    """Imports parity in a process in which only these packages can be imported."""
    command = [sys.executable, "-c", ALONE.format(allowed=allowed)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_public_names_are_these():
    assert PUBLIC == [
        "Joint",
        "Layout",
        "Names",
        "Pair",
        "Training",
        "Weights",
        "audit",
        "capture",
        "compare_examples",
        "compare_functions",
        "match",
        "save",
    ]
    assert not any(inspect.ismodule(getattr(parity, name)) for name in PUBLIC)


def test_help_shows_the_public_names_and_the_version():
    shown = pydoc.plain(pydoc.render_doc(parity))
    for name in PUBLIC:
        assert re.search(rf"^    (class )?{name}\(", shown, re.M), name
    assert parity.__version__ in shown.partition("VERSION")[2]


def test_importing_needs_numpy_alone():
    run = alone("parity", "numpy")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == parity.__version__


def test_modules_are_there_when_they_are_named():
    program = "import parity; print(parity.audits.audit is parity.audit, parity.errors.__name__)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["True", "parity.errors"]
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        parity.nothing  # noqa: B018


def test_a_second_dependency_would_be_noticed():
    assert "refused: numpy" in alone("parity").stderr


def test_a_source_tree_that_is_not_installed_has_a_version():
    program = """
from importlib import metadata
def version(name):
    raise metadata.PackageNotFoundError(name)
metadata.version = version
import parity
print(parity.__version__)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "0+source"


def examples(name: str, thing: object) -> doctest.DocTest:
    """The examples in the docstring of a public thing."""
    text = inspect.getdoc(thing) or ""
    return doctest.DocTestParser().get_doctest(text, {"parity": parity}, name, None, None)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example_that_runs(name):
    test = examples(name, getattr(parity, name))
    assert any(f"parity.{name}" in example.source for example in test.examples)
    said: list[str] = []
    found = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not found.failed, "".join(said)


def test_an_example_that_does_not_hold_is_noticed():
    test = examples("wrong", type("Wrong", (), {"__doc__": ">>> 1 + 1\n3\n"}))
    assert doctest.DocTestRunner(verbose=False).run(test, out=lambda text: None).failed == 1
