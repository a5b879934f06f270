"""The rules of the house: who may import whom, what files may say, documents that are true."""

import ast
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FLOORS = {  # a package imports only from lower floors, and from itself
    "parity": 0,
    "maskformer": 1,
    "torch_reference": 2,
    "tf_impl": 2,
    "weight_conversion": 3,
    "reports": 4,
    "replication": 5,
    "benchmarks": 6,
    "examples": 6,
    "parity_tests": 7,
}
TORCH = {"torch", "torchvision"}
TENSORFLOW = {"tensorflow", "tf_keras", "keras", "official", "orbit"}
PRODUCT = set(FLOORS) - {"benchmarks", "examples", "parity_tests"}
MOST_FILES = 24  # of one folder
NEVER = {  # frameworks that a package may not import, not even inside a function
    "maskformer": TORCH | TENSORFLOW | {"jax"},
    "torch_reference": TENSORFLOW | {"jax"},
    "tf_impl": TORCH,
    "reports": TORCH | TENSORFLOW | {"jax"},
}
TREE_DIFFERENCES = {  # modules that one framework has and the other cannot have
    "torch_reference": {"original", "initial_weights"},
    "tf_impl": {"linear_sum_assignment", "export", "variables"},
}
MACHINE_PATH = re.compile(r"(?<![\w.\])}*])/(?:home|root|Users|work|tmp|opt|mnt)/\w")
REGISTRY = re.compile(r"pythonhosted|download\.pytorch\.org|(?:extra-)?index-url|find-links", re.I)
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX)\b")
LEGACY_KERAS = re.compile(r"TF_USE_LEGACY_KERAS['\"]?\]?\s*(?:=(?!=)|,)\s*['\"]?[01]")
THIS = Path(__file__).relative_to(ROOT).as_posix()
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md")),
]
LARGEST = 3_000_000  # bytes of a tracked file


def tracked(suffix: str = "") -> list[str]:
    """Tracked files that exist, and new ones that are not ignored, as paths below the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(n for n in names.split("\0") if n.endswith(suffix) and (ROOT / n).is_file())


def texts() -> Iterator[tuple[str, str]]:
    """Every tracked text file that people write, except this one, which names what it forbids."""
    for name in tracked():
        if Path(name).suffix not in (".npz", ".png", ".jpg") and name != THIS:
            yield name, (ROOT / name).read_text(encoding="utf-8")


def imports(source: str) -> Iterator[tuple[str, int]]:
    """(module, line) of every absolute import, at any depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module, node.lineno


def upward_imports(package: str, source: str) -> list[str]:
    """Imports in a file of `package` that break the order of floors or a framework ban."""
    broken = []
    for module, line in imports(source):
        top = module.partition(".")[0]
        climbs = top != package and top in FLOORS and FLOORS[top] >= FLOORS[package]
        if climbs or top in NEVER.get(package, ()):
            broken.append(f"line {line}: {package} imports {module}")
    return broken


@pytest.mark.parametrize("package", FLOORS)
def test_imports_run_downwards(package):
    broken = {
        name: found
        for name in tracked(".py")
        if name.startswith(f"{package}/")
        and (found := upward_imports(package, (ROOT / name).read_text()))
    }
    assert not broken


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("tf_impl", "import torch_reference"),
        ("torch_reference", "def f():\n    from tf_impl.layers import Conv2D"),
        ("maskformer", "def f():\n    import torch.nn"),
        ("parity", "from maskformer.model import zoo"),
        ("reports", "import tensorflow as tf"),
    ],
)
def test_an_upward_import_is_noticed(package, source):
    assert upward_imports(package, source)


def mocks(source: str) -> list[int]:
    """The lines that import `unittest.mock`, in any of its spellings."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        if any(f"{name}.".startswith(("unittest.mock.", "mock.")) for name in names):
            found.append(node.lineno)
    return found


def test_no_package_patches_what_it_observes():
    sources = {name: (ROOT / name).read_text() for name in tracked(".py")}
    assert not {
        name: found
        for name, source in sources.items()
        if name.partition("/")[0] in set(FLOORS) - {"parity_tests"} and (found := mocks(source))
    }


@pytest.mark.parametrize(
    "source",
    [
        "import unittest.mock as one",
        "from unittest import mock",
        "def f():\n    from unittest.mock import patch",
        "import mock",
    ],
)
def test_a_patch_is_noticed(source):
    assert mocks(source)


def modules() -> dict[str, str]:
    """Dotted name and source of every module of the product."""
    found = {}
    for name in tracked(".py"):
        if name.partition("/")[0] in PRODUCT:
            dotted = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            found[dotted] = (ROOT / name).read_text()
    return found


def imported_modules(source: str, known: Collection[str]) -> set[str]:
    """The modules of `known` that a source imports, at any depth, also by their names in strings.

    A string counts where it is the name of a module, or `module:attribute`.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & set(known) or {node.module}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            found.add(node.value.partition(":")[0])
    return found & set(known)


def room(module: str, rooms: Collection[str]) -> str:
    """The room a module is in; a module that stands beside rooms is one of its own."""
    folder = module.rpartition(".")[0]
    return folder if folder in rooms else module


def circles(edges: Mapping[str, Collection[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other."""
    reach = {node: set(targets) for node, targets in edges.items()}
    for middle in edges:
        for targets in reach.values():
            if middle in targets:
                targets |= reach[middle]
    groups = {
        tuple(sorted(other for other in reach[node] if node in reach.get(other, ())))
        for node in edges
        if node in reach[node]
    }
    return [list(group) for group in sorted(groups)]


def edges_of(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Which module imports which, among those given; a package's own `__init__` counts for none."""
    packages = {name for name in sources if any(other.startswith(f"{name}.") for other in sources)}
    return {
        name: imported_modules(source, sources) - {name} - packages
        for name, source in sources.items()
        if name not in packages
    }


def rooms_of(edges: Mapping[str, Collection[str]]) -> dict[str, set[str]]:
    """Which room imports which; `edges` between modules."""
    rooms = {name.rpartition(".")[0] for name in edges} - PRODUCT
    between: dict[str, set[str]] = {}
    for name, targets in edges.items():
        here = room(name, rooms)
        between.setdefault(here, set()).update(room(one, rooms) for one in targets)
        between[here].discard(here)
    return between


def test_no_module_and_no_room_imports_itself_by_a_circle():
    edges = edges_of(modules())
    assert circles(edges) == []
    assert circles(rooms_of(edges)) == []


@pytest.mark.parametrize(
    "sources",
    [
        {"reports.a": "from reports import b", "reports.b": "def f():\n    import reports.a"},
        {"reports.a": "import reports.b", "reports.b": "NAME = 'reports.a:build'"},
    ],
    ids=["inside a function", "by a string"],
)
def test_a_circle_of_modules_is_noticed(sources):
    assert circles(edges_of(sources)) == [["reports.a", "reports.b"]]


def test_a_circle_of_rooms_is_noticed():
    sources = {
        "reports.up.a": "import reports.down.b",
        "reports.down.b": "",
        "reports.down.c": "import reports.up.d",
        "reports.up.d": "",
    }
    edges = edges_of(sources)
    assert circles(edges) == []
    assert circles(rooms_of(edges)) == [["reports.down", "reports.up"]]


def test_rooms_are_small():
    """So that a folder can be overlooked; tests of a room stand beside each other as well."""
    counts = Counter(Path(name).parent.as_posix() for name in tracked(".py"))
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_comparing_reporting_and_the_command_line_load_no_framework():
    names = [
        name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for name in tracked(".py")
        if re.match(r"(maskformer|reports|parity)/|replication/cli.py", name)
        and not re.search(r"/frameworks/\w+/|/causes/torch_|/__main__\.py", name)
    ]
    assert len(names) > 10
    program = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        "print(sorted({'torch', 'tensorflow', 'tf_keras', 'jax'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_the_command_line_loads_no_numpy():
    """Its import is most of the time that `parity --help` may take."""
    program = "import sys, replication.cli; print('numpy' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"


ASKED_FOR = re.compile(
    r"^\s*(?:el)?if (?:not )?(?:torch|tf|tensorflow|tf_keras)\b(?!\.)"
    r"|sys\.modules(?:\.get\(|\[)['\"](?:torch|tensorflow|tf_keras|keras|jax)\b",
    re.M,
)
OF_A_FRAMEWORK = ("parity/frameworks/", "replication/sides/", "tf_impl/", "torch_reference/")


def test_frameworks_are_asked_for_in_their_folders_only():
    found = {
        name
        for name in tracked(".py")
        if name.partition("/")[0] in PRODUCT
        and not name.startswith(OF_A_FRAMEWORK)
        and ASKED_FOR.search((ROOT / name).read_text())
    }
    assert found == {"parity/provenance.py"}  # which notes the flags of what is loaded


@pytest.mark.parametrize(
    "line",
    ["    if torch is None:", "elif tf_keras:", 'keras = sys.modules.get("tf_keras")'],
)
def test_a_question_for_a_framework_is_noticed(line):
    assert ASKED_FOR.search(line)


def test_measuring_judging_and_placing_have_one_implementation():
    pattern = re.compile(r"^def (?:measure_reference|judge_port|localise)", re.M)
    found = [one for name in tracked(".py") for one in pattern.findall((ROOT / name).read_text())]
    assert sorted(found) == ["def judge_port", "def localise", "def measure_reference"]


def test_legacy_keras_is_chosen_in_one_place():
    places = [name for name, text in texts() for _ in LEGACY_KERAS.findall(text)]
    assert places == ["tf_impl/__init__.py"]


@pytest.mark.parametrize("folder", ["", "modeling"])
def test_both_frameworks_have_the_same_modules(folder):
    trees = {}
    for package, own in TREE_DIFFERENCES.items():
        names = {path.stem for path in (ROOT / package / folder).glob("*.py")}
        trees[package] = names - (own if not folder else set())
    assert trees["torch_reference"] == trees["tf_impl"]


@pytest.mark.parametrize(
    "pattern", [MACHINE_PATH, REGISTRY, UNFINISHED], ids=["machine path", "registry", "unfinished"]
)
def test_tracked_files_are_free_of(pattern):
    found = [
        f"{name}:{number}: {line.strip()[:80]}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (MACHINE_PATH, "open('/home/someone/data')"),
        (REGISTRY, "pip install --find-links wheels"),
        (UNFINISHED, "# TODO: later"),
        (LEGACY_KERAS, "os.environ['TF_USE_LEGACY_KERAS'] = '1'"),
        (LEGACY_KERAS, 'os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")'),
        (LEGACY_KERAS, "TF_USE_LEGACY_KERAS=0 python train.py"),
    ],
)
def test_a_forbidden_text_is_noticed(pattern, line):
    assert pattern.search(line)


def test_tracked_files_are_small():
    sizes = {name: (ROOT / name).stat().st_size for name in tracked()}
    assert {name: size for name, size in sizes.items() if size > LARGEST} == {}


def test_every_dependency_is_pinned():
    pins = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = (ROOT / "pyproject.toml").read_text()
    (declared,) = re.findall(r"^\[project\]$(.*?)^\[project\.scripts\]$", project, re.S | re.M)
    blocks = re.findall(r"^(?:[\w-]+) = (\[.*?\])$", declared, re.S | re.M)
    assert len(blocks) == 12  # the base and its layers
    wanted = {
        re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", item).group()).lower()
        for block in blocks
        for item in ast.literal_eval(block)
    }
    assert wanted - {"maskformer-replication"} <= pins
    assert "torchvision" not in pins


def test_the_version_is_the_same_everywhere():
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == version
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\d.*)$", changes, re.M)[0] == version


def test_the_citation_names_the_replication_and_the_original():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    texts = [str(one) for one in cited["references"]]
    for source in ("arXiv:2404.18801", "Not All You Need", "facebookresearch/MaskFormer"):
        assert any(source in text for text in texts), source


def test_the_commit_hooks_are_the_checks_of_make_lint():
    """They run an installed program: nothing is fetched."""
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    hooks = [" ".join(hook["entry"].split()[:2]) for hook in repository["hooks"]]
    assert hooks == re.findall(r"^\t\.venv/bin/(ruff \w+)", (ROOT / "Makefile").read_text(), re.M)


def commands(document: str) -> list[str]:
    """Command lines in the document's shell blocks, without prompts and comments."""
    text = (ROOT / document).read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line and line[0] != "#"]


def problem(command: str) -> str | None:
    """Why the command cannot work, or None: unknown target, verb, option or file."""
    program, *arguments = shlex.split(command)
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
        unknown = [word for word in arguments if "=" not in word and word not in targets]
        return f"no target {unknown}" if unknown else None
    if program.endswith("parity"):
        return _parity_problem(arguments)
    if program.endswith(("python", "pytest")):
        files = [word for word in arguments if re.search(r"\.py\b|/$", word)]
        missing = [word for word in files if not (ROOT / word.partition("::")[0]).exists()]
        return f"no file {missing}" if missing else None
    known = program in ("git", "cd", "gcloud") or program.endswith("/pip")
    return None if known else f"unknown program {program}"


def _parity_problem(arguments: list[str]) -> str | None:
    import typer

    from replication.cli import app

    command = typer.main.get_group(app)
    words = list(arguments)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        verb = words.pop(0)
        if verb not in command.commands:
            return f"no command {verb}"
        command = command.commands[verb]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word not in known]
    return f"no option {unknown}" if unknown else None


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_commands_exist(document):
    broken = {line: why for line in commands(document) if (why := problem(line))}
    assert not broken


def test_the_two_commands_are_in_the_readme():
    assert {"make demo", "make test"} <= set(commands("README.md"))


@pytest.mark.parametrize(
    "command",
    ["make nothing", "parity nothing", "parity --nothing", "python benchmarks/no.py", "curl x"],
)
def test_a_command_that_cannot_work_is_noticed(command):
    assert problem(command)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files(document):
    text = (ROOT / document).read_text()
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
    here = (ROOT / document).parent
    missing = [t for t in targets if not re.match(r"https?:", t) and not (here / t).exists()]
    assert not missing
