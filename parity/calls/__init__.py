"""What all captures share: watching module calls, naming tensors, calling again."""

from parity.calls.arguments import Arguments as Arguments
from parity.calls.arguments import named_arguments as named_arguments
from parity.calls.arguments import split_inputs as split_inputs
from parity.calls.recorder import Collector as Collector
from parity.calls.recorder import Feeds as Feeds
from parity.calls.recorder import IsolationError as IsolationError
from parity.calls.recorder import Recorder as Recorder
from parity.calls.recorder import Sink as Sink
from parity.calls.recorder import selector as selector
from parity.calls.structures import Record as Record
from parity.calls.structures import Slot as Slot
from parity.calls.structures import fill as fill
from parity.calls.structures import flatten as flatten
from parity.calls.structures import flatten_result as flatten_result
from parity.calls.structures import is_array as is_array
from parity.calls.structures import joined as joined
from parity.calls.structures import largest_gap as largest_gap
from parity.calls.structures import needed as needed
from parity.calls.structures import part as part
from parity.calls.structures import slots as slots
from parity.calls.structures import whole as whole
from parity.calls.watch import Call as Call
from parity.calls.watch import Replaced as Replaced
from parity.calls.watch import Watch as Watch
from parity.calls.watch import named_as_reference as named_as_reference
from parity.calls.watch import watching as watching
