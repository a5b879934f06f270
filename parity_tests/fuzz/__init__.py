"""Coverage-guided fuzzing of every reader; `python -m parity_tests.fuzz.run --help`."""
