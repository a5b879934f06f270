"""Links lead to files and headings, tables are rectangular, no listed command is out of date."""

import pytest

from parity_tests.docs.documents import (
    DOCUMENTS,
    LISTED,
    anchors_in,
    broken_links,
    commands_in,
    crooked_rows,
    documented,
    links_in,
    shorter,
    text_of,
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_or_heading(document):
    assert broken_links(document, text_of(document)) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_table_is_rectangular(document):
    assert list(crooked_rows(text_of(document))) == []


def test_listed_commands_are_documented():
    listed = [*LISTED["fast"], *LISTED["elsewhere"]]
    assert set(listed) <= set(documented())
    assert len(listed) == len(set(listed))
    assert all(LISTED["elsewhere"].values())


def test_every_substitution_is_used():
    for long in LISTED["shorter"]:
        assert any(long in command for command in documented()), long


def test_every_guide_can_be_reached_from_the_readme():
    seen, left = set(), ["README.md"]
    while left:
        document = left.pop()
        seen.add(document)
        for target in links_in(text_of(document)):
            name = target.partition("#")[0].removeprefix("docs/")
            path = f"docs/{name}"
            if path in DOCUMENTS and path not in seen:
                left.append(path)
    assert set(DOCUMENTS) <= seen


@pytest.mark.parametrize(
    "text", ["[a](missing.md)", "[a](#nowhere)", "[a](docs/audit.md#nowhere)", '<img src="no.png">']
)
def test_a_link_that_leads_nowhere_is_noticed(text):
    assert broken_links("README.md", text)


def test_anchors_are_those_of_github():
    text = "# A `b` c?\n## A b, c\n```sh\n# no heading\n```\n### [d](e.md) f\n"
    assert anchors_in(text) == {"a-b-c", "a-b-c-1", "d-f"}


def test_a_crooked_table_is_noticed():
    assert list(crooked_rows("| a | b |\n| --- | --- |\n| 1 | 2 | 3 |\n")) == ["| 1 | 2 | 3 |"]
    assert list(crooked_rows("| a | b |\n| --- | --- |\n| `x | y` | 2 |\n")) == []


def test_commands_are_read_as_a_reader_would():
    text = (
        "```sh\nparity a \\\n    --b c  # why\n# not this\nmake x\n```\n```text\nparity no\n```\n"
    )
    assert commands_in(text) == ["parity a --b c", "make x"]
    assert shorter("parity train --steps 2000") == "parity train --steps 2"
