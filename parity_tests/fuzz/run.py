"""Fuzzes one target for some seconds: `python -m parity_tests.fuzz.run pickle --seconds 60`.

It needs atheris, the extra `fuzz`. What is found lies in --out, as libFuzzer names it; the last
line is one JSON object with executions, covered edges, and the number of findings.
"""

import argparse
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

from parity_tests.fuzz.targets import TARGETS

_SLOWEST = 5  # seconds of one input that is no finding, instrumented as the program is
_MEMORY = 2500  # MB of the whole process, with the frameworks in it


def fuzz(name: str, out: Path, seconds: int) -> None:
    """Runs libFuzzer in this process, which it ends."""
    import atheris

    target = TARGETS[name]
    with atheris.instrument_imports(include=list(target.modules)):
        for module in target.modules:
            importlib.import_module(module)
        for seed in target.seeds():
            target.read(seed)
    corpus = out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed_{number}").write_bytes(seed)
    words = [f"-max_total_time={seconds}", f"-timeout={_SLOWEST}", f"-rss_limit_mb={_MEMORY}"]
    words += [f"-artifact_prefix={out}/", "-print_final_stats=1", "-max_len=8192", str(corpus)]
    atheris.Setup([sys.argv[0], *words], target.read)
    atheris.Fuzz()


def main() -> None:
    """Fuzzes in a process of its own and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        fuzz(arguments.target, arguments.out, arguments.seconds)
        return
    command = [sys.executable, "-m", "parity_tests.fuzz.run", *sys.argv[1:], "--inside"]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    log = done.stderr.decode(errors="replace")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "log.txt").write_text(log)
    executed = re.findall(r"stat::number_of_executed_units:\s*(\d+)", log)
    covered = re.findall(r"cov: (\d+)", log)
    found = [
        p.name for p in arguments.out.iterdir() if re.match(r"(crash|timeout|oom|leak)-", p.name)
    ]
    result = {
        "target": arguments.target,
        "seconds": arguments.seconds,
        "executions": int(executed[-1]) if executed else 0,
        "edges": int(covered[-1]) if covered else 0,
        "findings": found,
        "status": done.returncode,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
