"""What rounding explains is no difference: open where it is above the cap, until modules decide."""

from torch import nn

from parity.audits import Pair, audit
from parity.names import Names
from parity_tests.parity.strangers.models import numbers, varied
from parity_tests.reports.mixer import undecided
from replication.commands.audit import summary


class Sums(nn.Linear):
    """A linear layer whose terms are added one after another, or with a mistake."""

    mistake, turned = 0.0, False

    def forward(self, x):
        if not self.turned:
            return super().forward(x)
        return undecided.OtherSums.forward(self, x) * (1 + self.mistake)


class Net(undecided.Net):
    """Ends with the sine of a large number, which has lost half of its digits."""

    def __init__(self):
        super().__init__(Sums(64, 8))


def result(mistake=0.0):
    def port():
        made = varied(Net)
        made.sums.turned, made.sums.mistake = True, mistake
        return made

    pair = Pair(varied(Net), port(), (numbers(3, 64),), names=Names())
    return audit(pair, executions=(), quiet=True)


def test_a_gap_as_large_as_the_references_own_is_not_decided_and_modules_are_run_alone():
    found = result()
    assert found.float64.nearest_to_limit.value > 1e-9
    assert found.claimed("same_function").verdict == "not decided"
    assert found.claimed("isolated_function").holds
    assert found.verdict == "not decided"
    assert (found.failing, found.localisations, found.first_divergence) == ((), (), None)
    told = summary(found)
    assert "not decided: Both compute the same function" in told
    assert "limit 1e-09" in told


def test_a_mistake_beside_it_is_a_difference():
    found = result(mistake=1e-11)
    assert found.verdict == "different"
    assert found.localisation.path == "sums"
    assert found.first_divergence == "sums"
    assert found.claimed("same_function").fails
