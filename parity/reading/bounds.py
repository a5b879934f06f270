"""How much of a file that somebody else wrote is read; every reader takes its bounds from here.

A file beyond a bound is refused with an InputError; `docs/security.md` lists what each promises.
"""

SETTINGS_BYTES = 16 << 20
"""Of a configuration, a manifest, an index or any other file of settings."""

YAML_BYTES = 1 << 18
"""Of a configuration in YAML."""

RECORD_BYTES = 1 << 30
"""Of annotations and recorded results in JSON."""

HEADER_BYTES = 100_000_000
"""Of a safetensors header: the format's own limit. Also of a zip archive's directory."""

TEXT_BYTES = 64 << 20
"""Of one text or byte string inside a pickle."""

NAME_BYTES = 4096
"""Of a tensor's name, a class's name or a key."""

DIGITS = 40
"""Of a whole number."""

DEEPEST = 100
"""Values inside each other."""

MOST_NAMES = 200_000
"""Names in one table: tensors of a checkpoint, members of an archive."""

MOST_STEPS = 1_000_000
"""Instructions of one pickle."""

MOST_AXES = 32
"""Axes of a tensor."""

MOST_ELEMENTS = 2**48
"""Elements of a tensor, of one of its axes, or that a stride goes over."""

REPEATS = 64
"""Times that the tensors of a file may read each byte of it."""

EXPANDED_BYTES = 256 << 20
"""Of a tensor that repeats elements of its storage."""

PIXELS = 1 << 26
"""Of an image, before it is decoded."""
