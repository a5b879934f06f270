"""Which variables of a port hold which tensors of the reference, and in which layout."""

from parity.weights.joints import Joint as Joint
from parity.weights.layouts import CONVOLUTIONS as CONVOLUTIONS
from parity.weights.layouts import LINEAR as LINEAR
from parity.weights.layouts import SAME as SAME
from parity.weights.layouts import Layout as Layout
from parity.weights.layouts import depthwise as depthwise
from parity.weights.layouts import gates as gates
from parity.weights.layouts import merged_heads as merged_heads
from parity.weights.layouts import of_kind as of_kind
from parity.weights.layouts import split_heads as split_heads
from parity.weights.layouts import turned as turned
from parity.weights.loading import Held as Held
from parity.weights.loading import Loaded as Loaded
from parity.weights.loading import Returned as Returned
from parity.weights.loading import State as State
from parity.weights.loading import Variable as Variable
from parity.weights.loading import Weights as Weights
from parity.weights.loading import key_of as key_of
from parity.weights.loading import load as load
from parity.weights.loading import returned as returned
from parity.weights.loading import state_digest as state_digest
from parity.weights.loading import state_of as state_of
