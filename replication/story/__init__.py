"""The story that `parity demo` tells: its stages, and what of them is finished."""
