"""The guide to the frameworks, followed literally, on every backend of Keras."""

import os
import re
import subprocess
import sys

import pytest

from parity_tests.docs.documents import ROOT, text_of

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)
MARK = "-- next block --"


def sections() -> dict[str, list[tuple[str, str]]]:
    """(language, content) of every fenced block, by the heading above it."""
    parts = re.split(r"^## (.+)$", text_of("docs/frameworks.md"), flags=re.M)
    return {
        title: found
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
        if (found := BLOCK.findall(text))
    }


def printed(code: list[str], backend: str) -> list[str]:
    """What each block prints, one after the other in a process of its own."""
    program = f"\nprint({MARK!r})\n".join(code)
    environment = os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split(f"{MARK}\n")


def blocks(titles: list[str]) -> tuple[list[str], list[str]]:
    """The code of these sections, and what the document says that it prints."""
    found = [block for title in titles for block in sections()[title]]
    code = [content for language, content in found if language == "python"]
    return code, [content for language, content in found if language == "text"]


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_the_section_on_keras_does_what_it_says(backend):
    code, expected = blocks(["PyTorch", "Keras 3"])
    assert printed(code, backend) == expected


def test_the_sections_on_flax_do_what_they_say():
    code, expected = blocks(["PyTorch", "flax.nnx", "flax.linen"])
    names = 'names = parity.Names(modules={"inner": "0", "norm": "2", "outer": "3"})\n'
    assert names in sections()["Keras 3"][0][1]
    assert printed([code[0], names + code[1], *code[2:]], "jax") == expected


def test_every_section_with_code_is_run():
    assert set(sections()) == {"PyTorch", "Keras 3", "flax.nnx", "flax.linen"}
