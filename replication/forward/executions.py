"""How the port may run in an audit, by the names that options take; nothing heavy is imported."""

EXECUTIONS = ("eager", "graph", "xla")
COMPILED = ("graph", "xla")  # in which a training step is compared in float32
