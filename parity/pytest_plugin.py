"""A pytest plugin: tests of any project record claims as evidence that `parity report` takes.

The fixture `parity_evidence` judges what a test measured, fails the test where the claim fails, and
keeps the claim with its measurements. With `--parity-out DIR` the session writes `DIR/suite.json`.
No framework is loaded: tensors are NumPy arrays, measured by the test itself.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.claims import Claim, claim, margin_claim, verdict_of
from parity.judge import function_verdict, precision_verdict
from parity.measurements import of_json
from parity.metrics import gap
from parity.provenance import provenance
from parity.records import plain, strict, write_json
from parity.results import SuiteResult

FILE = "suite.json"
_RECORDED = pytest.StashKey[list[Claim]]()

Arrays = Mapping[str, np.ndarray]


class Recorder:
    """What `parity_evidence` gives a test: each method judges, records, and asserts one claim."""

    def __init__(self, test: str, recorded: list[Claim]) -> None:
        self._test, self._recorded = test, recorded

    def claim(
        self,
        identity: str,
        title: str,
        measured: Mapping[str, Any],
        derivation: str,
        rung: str = "activations",
    ) -> Claim:
        """Any claim; `measured` is JSON (`parity.measurements.of_json`), `rung` as in a ladder."""
        name = self._name(identity, rung)
        one = claim(name, title, of_json(measured), derivation, f"pytest {self._test}")
        return self._keep(one)

    def same_function(
        self,
        identity: str,
        port: Arrays,
        reference: Arrays,
        moved: Sequence[Arrays],
        rung: str = "activations",
    ) -> Claim:
        """In float64 every tensor agrees to rounding.

        `moved` are runs of the reference whose inputs and weights are one unit in the last place
        away (`parity.metrics.perturb_ulp`), or whose sums are reordered: they give the limit.
        """
        verdicts = {
            key: function_verdict(key, gap(_of(port, key), exact), _floor(key, exact, moved))
            for key, exact in reference.items()
        }
        one = margin_claim(
            self._name(identity, rung),
            f"{identity}: in float64 every tensor agrees to rounding",
            verdicts,
            "largest gap in units of its limit, min(32 x floor, 1e-9); the floor is the "
            f"reference's own gap in {len(moved)} runs with moved roundings",
            f"pytest {self._test}",
            [key for key in port if key not in reference],
        )
        return self._keep(one)

    def same_precision(
        self,
        identity: str,
        port: Arrays,
        reference: Arrays,
        exact: Arrays,
        rung: str = "precision",
    ) -> Claim:
        """In float32 no tensor is further from float64 (`exact`) than 4 times the reference's."""
        verdicts = {}
        for key, truth in exact.items():
            own = gap(_of(reference, key), truth)
            verdicts[key] = precision_verdict(key, gap(_of(port, key), truth), own, own)
        one = margin_claim(
            self._name(identity, rung),
            f"{identity}: in float32 no tensor is less exact than the reference's",
            verdicts,
            "largest error in units of its limit, 4 x the reference's own error from float64",
            f"pytest {self._test}",
            [key for key in port if key not in exact],
        )
        return self._keep(one)

    def _name(self, identity: str, rung: str) -> str:
        return f"{rung}/{self._test}::{identity}"

    def _keep(self, one: Claim) -> Claim:
        if any(known.id == one.id for known in self._recorded):
            raise ValueError(f"this test records {one.id!r} twice; give each claim its own name")
        self._recorded.append(one)
        assert one.holds, (
            f"{one.title}: {one.value:.3g}, but should be at most {one.limit:.3g} "
            f"[{one.cases} cases]"
        )
        return one


def _of(arrays: Arrays, key: str) -> np.ndarray:
    """The array, or an empty one that has no gap to any other."""
    return arrays.get(key, np.empty((0,)))


def _floor(key: str, exact: np.ndarray, moved: Sequence[Arrays]) -> Any:
    from parity.metrics import worst

    return worst(gap(_of(one, key), exact) for one in moved)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--parity-out`."""
    parser.getgroup("parity").addoption(
        "--parity-out",
        metavar="DIR",
        default=None,
        help="folder for suite.json: the claims that tests recorded, for `parity report`",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Starts with no claims."""
    config.stash[_RECORDED] = []


@pytest.fixture
def parity_evidence(request: pytest.FixtureRequest) -> Recorder:
    """Records claims of this test: what was measured, its limit, and the verdict."""
    return Recorder(request.node.nodeid, request.config.stash[_RECORDED])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Takes over what a worker of pytest-xdist has recorded."""
    recorded = getattr(node, "workeroutput", {}).get("parity", "[]")
    node.config.stash[_RECORDED] += map(Claim.from_json, json.loads(recorded))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the result, whole; a worker hands its claims to the main process instead."""
    config = session.config
    recorded = config.stash[_RECORDED]
    if hasattr(config, "workeroutput"):
        config.workeroutput["parity"] = json.dumps(strict(plain(recorded)), allow_nan=False)
        return
    out = config.getoption("--parity-out")
    if out is None:
        return
    result = SuiteResult(
        title=f"Claims of the test suite of {config.rootpath.name}",
        verdict=verdict_of(recorded),
        claims=tuple(sorted(recorded, key=lambda one: one.id)),
        command=" ".join(["pytest", *map(str, config.invocation_params.args)]),
        provenance=provenance(config.rootpath),
    )
    write_json(result.to_json(), Path(out), FILE)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Says where the evidence is."""
    out = config.getoption("--parity-out")
    if out is not None:
        count = len(config.stash[_RECORDED])
        terminalreporter.write_line(f"parity: {count} claims in {Path(out) / FILE}")
