"""What `parity preflight` cannot do is refused in one error of three lines, before any work."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)
from parity.errors import InputError
from parity_tests.replication.commands.test_destinations import LONG, VERBS
from replication.cli import app
from replication.tpu import execution, limits, published
from replication.tpu import preflight as preflight_run
from tf_impl.tpu import compiler
from tf_impl.tpu import preflight as tpu

TINY = ("--config", "tiny")
EXECUTED = ("--execute", *TINY, "--replicas", "2")


def _working(*_, **__):
    raise AssertionError("work has begun")


@pytest.fixture(autouse=True)
def without_work(monkeypatch):
    monkeypatch.setattr(execution, "training_case", _working)
    monkeypatch.setattr(preflight_run.Programs, "train", _working)
    monkeypatch.setattr(published, "fill", _working)
    monkeypatch.setattr(tpu, "missing_compiler", lambda: None)


def run(*words):
    return CliRunner().invoke(app, ["preflight", *words])


def refused(*words):
    """The lines of the one error."""
    error = run(*words).exception
    assert isinstance(error, InputError), error
    lines = str(error).splitlines()
    assert len(lines) == 3
    return lines


@pytest.mark.parametrize(
    "words",
    [
        (*TINY, "--replicas", "8", "--topology", "v3:2x2", "--topology", "v5p:2x4x3"),
        (*TINY, "--image-size", "32x32", "--effort", "-1", "--per-core-batch", "512"),
        ("--execute", *TINY, "--replicas", "64", "--steps", "100"),
        ("--published", "--out", "{out}", "--effort", "1", "--find-batch", "--price", "v4=2"),
    ],
)
def test_what_can_be_done_is_begun(words, tmp_path):
    found = run(*(word.format(out=tmp_path / "new") for word in words))
    assert "work has begun" in str(found.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (
            ("--published", *TINY, "--execute", "--topology", "v9:1", "--image-size", "zz"),
            "--published does not go with --config, --topology, --image-size, --execute",
        ),
        (
            ("--published", "--out", "o", "--per-core-batch", "1", "--products", "77"),
            "--published does not go with --per-core-batch, --products",
        ),
        (
            (*EXECUTED, "--effort", "3", "--no-evaluation", "--find-batch", "--topology", "v9:9"),
            "--execute does not go with --topology, --find-batch, --no-evaluation, --effort",
        ),
        ((*EXECUTED, "--price", "v5e=1"), "--execute does not go with --price"),
        (
            (*TINY, "--plant", "--steps", "5", "--products", "1"),
            "compiling for a chip does not go with --steps, --plant, --products",
        ),
        (
            ("--experiment", "maskformer_scenes_tiny", "--set", "MODEL.X=1", "--set", "A.B=1"),
            "--experiment does not go with --set",
        ),
    ],
)
def test_options_without_effect_are_named_with_the_mode(words, fact):
    assert refused(*words)[0] == fact


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        ((*EXECUTED, "--micro-batches", "0"), "--micro-batches is 0"),
        ((*EXECUTED, "--replicas", "1"), "--replicas is 1"),
        ((*EXECUTED, "--replicas", "65"), "--replicas times --micro-batches is 65"),
        ((*EXECUTED, "--replicas", "1000000000"), "--replicas times --micro-batches is 1000000000"),
        (
            (*EXECUTED, "--per-core-batch", "64", "--micro-batches", "64"),
            "--replicas times --micro-batches is 128",
        ),
        ((*EXECUTED, "--targets", "1001"), "--targets is 1001"),
        (
            (*EXECUTED, "--targets", "1000", "--per-core-batch", "500"),
            "--replicas times --per-core",
        ),
        ((*EXECUTED, "--steps", "9" * 20), "--steps times --replicas"),
        ((*EXECUTED, "--per-core-batch", "9" * 20), "--replicas times --per-core-batch"),
        ((*EXECUTED, "--products", "2"), "products are asked for in 2 passes"),
        ((*TINY, "--targets", "9" * 20), f"--targets is {'9' * 20}"),
        ((*TINY, "--per-core-batch", "513"), "--per-core-batch is 513"),
        ((*TINY, "--replicas", "9" * 20), f"--replicas is {'9' * 20}"),
        ((*TINY, "--topology", "v3:2x2", "--replicas", "9"), "--replicas is 9"),
        ((*TINY, "--effort", "nan"), "--effort is nan"),
        ((*TINY, "--effort", "1e30"), "--effort is 1e+30"),
        (("--published", "--out", "o", "--effort", "-1.5"), "--effort is -1.5"),
        ((*TINY, *("--topology", "v5e:2x2") * 2), "--topology v5e:2x2 is given twice"),
        ((*TINY, "--precision", "int8"), "--precision is 'int8'"),
    ],
)
def test_numbers_beyond_what_can_be_done_are_refused(words, fact):
    assert refused(*words)[0].startswith(fact)


@pytest.mark.parametrize("form", ["v5e", "v5e:", "v5e:2", "v5e:3x7", "v5e:2x", "v5e:0x0"])
@pytest.mark.parametrize("is_last", [False, True])
def test_what_is_no_slice_of_chips_is_refused(form, is_last):
    others = ("--topology", "v5e:2x2") if is_last else ()
    assert refused(*TINY, *others, "--topology", form)[0] == (
        f"--topology {form!r} is no slice of chips"
    )


SLICES = ("v2:2x2", "v3:4x8", "v4:2x2x3", "v5e:16x16", "v5p:16x20x28", "v6e:2x4")
NONE = ("v6e:1x1", "v4:2x2x1x1", "v5e:2x3", "v3:3x2", "v5e:2x2 ", "v5e:2X2", "v5p:2x2x0")
ASKED = """
import sys
from jax.experimental import topologies
for name in sys.argv[1:]:
    try:
        print(len(topologies.get_topology_desc(platform="tpu", topology_name=name).devices))
    except Exception:
        print(0)
"""


@pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_compiler_knows_the_same_slices():
    run = subprocess.run(
        [sys.executable, "-c", ASKED, *SLICES, *NONE],
        env={**os.environ, **tpu.ENVIRONMENT},
        capture_output=True,
        text=True,
        check=True,
    )
    devices = [int(line) for line in run.stdout.splitlines()]
    assert [bool(count) for count in devices] == [True] * len(SLICES) + [False] * len(NONE)
    for form in SLICES:
        limits._check_slice(form, 1)
    for form in (*NONE, "v5e:²x²", "v5p:9998x2"):
        with pytest.raises(InputError, match="is no slice of chips"):
            limits._check_slice(form, 1)


@pytest.mark.parametrize(
    ("size", "fact"),
    [
        ("²x²", "'²x²' is no size"),
        ("99999999x99999999", "99999999x99999999 is too large"),
        (f"{'9' * 3000}x1", "is too large"),
        ("0x0", "0x0 is too small"),
        ("1x1", "1x1 is too small"),
        ("31x64", "31x64 is too small"),
    ],
)
@pytest.mark.parametrize("mode", [TINY, EXECUTED])
def test_a_size_that_the_model_cannot_take_is_refused(mode, size, fact):
    lines = refused(*mode, "--image-size", size)
    assert lines[0].startswith("--image-size ")
    assert lines[0].endswith(fact)


@pytest.mark.parametrize("verb", ["audit", "trajectory"])
@pytest.mark.parametrize("size", ["²x²", "99999999x99999999", "1x1"])
def test_the_size_of_other_verbs_is_refused_likewise(parity, verb, size):
    status, out, err = parity(verb, "--config", "tiny", "--size", size)
    assert (status, out) == (2, "")
    assert len(err[err.index("parity: --size ") :].splitlines()) == 3


@pytest.mark.parametrize(
    "words",
    [
        ("audit", *TINY, "--batch", "0"),
        ("audit", *TINY, "--set", "MODEL.X"),
        ("capture", *TINY, "--side", "both"),
        ("trajectory", *TINY, "--dtype", "float16"),
        ("trajectory", *TINY, "--steps", "0"),
    ],
)
def test_what_an_option_expects_is_told_with_what_to_do(parity, words):
    status, out, err = parity(*words)
    assert (status, out) == (2, "")
    assert len(err[err.index("parity: --") :].splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "module", "name"),
    [(TINY, tpu, "missing_compiler"), (EXECUTED, compiler, "find_spec")],
)
def test_a_missing_compiler_is_said_before_any_work(words, module, name, monkeypatch):
    monkeypatch.setattr(module, name, lambda *_: None if name == "find_spec" else "no libtpu")
    assert "Install it: pip install" in refused(*words)[2]


@pytest.mark.parametrize("verb", sorted(LONG | {"predict", "inspect", "report"}))
@pytest.mark.parametrize("out", ["file", "file/out", "/proc/x", "{long}"])
def test_an_out_that_cannot_be_a_folder_is_refused_first(verb, out, tmp_path, monkeypatch, parity):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("dear")
    out = out.format(long="x" * 300)
    status, said, err = parity(*VERBS[verb].format(out).split())
    assert (status, said) == (2, "")
    told = err[err.index("parity: ") :].splitlines()
    assert told[0] == f"parity: --out {out} cannot be written"
    assert len(told) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
