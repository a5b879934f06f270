"""The chapters of compared functions and examples: drawn whole, checked against their claims."""

import copy
import json

import numpy as np
import pytest

import parity
from parity.records import json_text
from parity.results import Result
from reports.loading import of_result
from reports.render import write_report
from reports.verification.recheck import recheck
from reports.verification.verify import verify


def functions(wrong: bool) -> Result:
    cases = [(np.arange(12, dtype=np.float32).reshape(rows, -1),) for rows in (3, 4)]
    port = (lambda x: (x.sum(0), x.argmax(0))) if wrong else None
    reference = lambda x: (x.mean(0), x.argmax(0))  # noqa: E731
    return parity.compare_functions(reference, port or reference, cases, title="Means")


def examples(wrong: bool) -> Result:
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3)).astype(np.uint8)
    port = image[..., ::-1] if wrong else image
    return parity.compare_examples(
        [{"image": image, "norm": image / 255}], [{"image": port, "norm": port / 255}]
    )


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("make", [functions, examples])
def test_a_result_is_drawn_and_verified(make, wrong, tmp_path):
    result = make(wrong)
    path = parity.save(result, tmp_path / "recorded")
    assert path.name == f"{make.__name__}.json"
    write_report([of_result(result.to_json())], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert verify(tmp_path / "report").problems == ()
    text = (tmp_path / "report" / "report.md").read_text()
    words = ("where the reference takes the mean", "channels are in reverse order")
    assert any(one in text for one in words) == wrong
    assert ("data:image/png;base64" in page) == (wrong and make is examples)


@pytest.mark.parametrize(
    ("make", "part", "name"),
    [
        (functions, "outputs", "float64"),
        (functions, "outputs", "float32"),
        (examples, "fields", "largest"),
    ],
)
def test_a_changed_figure_is_noticed(make, part, name):
    content = json.loads(json_text(make(True).to_json()))
    assert recheck(of_result(content)) == []
    changed = copy.deepcopy(content)
    changed[part][0][name] = 0.5
    places = [place for place, *_ in recheck(of_result(changed))]
    assert places == [f"{part}[0].{name}"]
