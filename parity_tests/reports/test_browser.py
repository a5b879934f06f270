"""The report in a real browser: opens from disk, asks for nothing, works, and reads for all."""

import math
import re
from pathlib import Path

import pytest

from parity_tests.reports import browser, recorded
from parity_tests.reports.results import different_result
from parity_tests.reports.test_samples import SAMPLE
from reports.loading import load
from reports.render import write_report

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "ready")

WIDTHS = (360, 1440)
SCHEMES = ("light", "dark")
GROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}
GROUND = "() => getComputedStyle(document.body).backgroundColor"
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
AXE = """async (only) => {
    const found = await axe.run(document, { runOnly: only, resultTypes: ["violations"] });
    return found.violations.map((one) =>
        `${one.id}: ${one.nodes.length} nodes, such as ${one.nodes[0].html.slice(0, 200)}`);
}"""
SHORTEN = """() => document.querySelectorAll("tbody").forEach((body) =>
    [...body.rows].slice(5).forEach((row) => row.remove()))"""
WIDER = """() => [...document.querySelectorAll("main *")]
    .filter((one) => !one.closest(".scroll") && !one.closest("svg") && !one.closest(".skip"))
    .filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5)
    .map((one) => `${one.tagName}.${one.className}: ${one.textContent.slice(0, 60)}`)"""
LABELS = """() => [...document.querySelectorAll("svg.plot")].flatMap((svg) => {
    const frame = svg.getBoundingClientRect();
    if (!frame.width) return [];
    return [...svg.querySelectorAll("text")].filter((text) => {
        const box = text.getBoundingClientRect();
        return box.left < frame.left - 1 || box.right > frame.right + 1
            || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
    }).map((text) => `${svg.getAttribute("aria-label").slice(0, 40)}: ${text.textContent}`);
})"""
OVERLAPS = """() => [...document.querySelectorAll("svg.plot")].flatMap((svg) => {
    const found = [...svg.querySelectorAll("text")];
    const texts = found.map((one) => [one, one.getBoundingClientRect()]);
    return texts.flatMap(([one, a], index) => texts.slice(index + 1).filter(([, b]) =>
        Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3
    ).map(([other]) => `${one.textContent} and ${other.textContent}`));
})"""
OPEN_ALL = "() => document.querySelectorAll('details').forEach((one) => { one.open = true; })"


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A report of several kinds of results, of which one audit fails."""
    failing = different_result()
    failing["layers"] = failing["layers"][::6]
    results = [*recorded.results(), failing]
    return write_report(results, tmp_path_factory.mktemp("report")).as_uri()


@pytest.fixture
def opened(chromium, address):
    """Opens the report; requests and messages of the console are kept. Closed after the test."""
    contexts = []

    def open_page(**options):
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()


def test_the_report_opens_from_disk_asks_for_nothing_and_says_nothing(opened, address):
    page = opened(offline=True)
    page.evaluate(OPEN_ALL)
    assert page.title() == "Replication report"
    assert [url for url in page.asked if not url.startswith("data:")] == [address]
    assert page.said == []


def test_a_request_or_a_message_would_be_noticed(opened):
    page = opened(offline=True, bypass_csp=True)
    page.evaluate("() => { new Image().src = 'http://localhost:9/x.png'; console.log('x'); }")
    page.wait_for_timeout(100)
    assert any(url.endswith("x.png") for url in page.asked)
    assert "x" in page.said


def layers(page):
    """The table of every tensor, in the chapter of the audit that fails."""
    page.evaluate(OPEN_ALL)
    return page.locator("[data-interactive]").filter(has_text="Every compared tensor").last


def shown(table, column):
    cells = table.locator(f"tbody tr:not([hidden]) td:nth-child({column})")
    return cells.all_text_contents()


def test_tables_are_sorted_by_their_headings(opened):
    table = layers(opened())
    heads = table.locator("th").all_text_contents()
    gap = heads.index("Gap") + 1
    button = table.locator(f"th:nth-child({gap}) button")
    button.press("Enter")  # as a keyboard user does
    head = table.locator(f"th:nth-child({gap})")
    assert head.get_attribute("aria-sort") == "ascending"
    values = table.locator(f"tbody td:nth-child({gap})").evaluate_all(
        "cells => cells.map((cell) => Number.parseFloat(cell.dataset.value ?? cell.textContent))"
    )
    numbers = [value for value in values if not math.isnan(value)]
    assert len(numbers) > 60
    assert numbers == sorted(numbers)
    assert all(map(math.isnan, values[len(numbers) :])), "what is no number comes last"
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    first = table.locator(f"tbody td:nth-child({gap})").first
    assert float(first.text_content()) == numbers[-1]


def test_tables_are_filtered_by_text_and_by_choice(opened):
    table = layers(opened())
    everything = len(shown(table, 2))
    table.locator("input[type=search]").fill("res3.0")
    found = shown(table, 2)
    assert found
    assert all("res3.0" in text for text in found)
    assert table.locator("[role=status]").text_content() == f"{len(found)} of {everything} rows"
    table.locator("select").first.select_option("fails")
    assert shown(table, 2) == []
    table.locator("input[type=search]").fill("")
    counts = {}
    for verdict in ("holds", "fails"):
        table.locator("select").first.select_option(verdict)
        assert set(shown(table, 3)) == {verdict}
        counts[verdict] = len(shown(table, 3))
    assert sum(counts.values()) == everything


def test_rungs_and_chapters_fold_and_links_open_them(opened):
    page = opened()
    rung = page.locator("#rung-weights")
    assert rung.get_attribute("open") is None
    claim = rung.locator(".claim").first
    assert not claim.is_visible()
    rung.locator("summary").press("Enter")
    assert claim.is_visible()
    link = page.locator("nav a", has_text=re.compile("^Evaluation")).first
    chapter = page.locator(f"details.chapter:has({link.get_attribute('href')})")
    assert chapter.get_attribute("open") is None
    link.click()
    # An event that follows the click opens it.
    page.wait_for_function("chapter => chapter.open", arg=chapter.element_handle())


def test_a_chapter_that_fails_is_open(opened):
    page = opened()
    failing = page.locator("details.chapter:has(> summary .verdict.bad)")
    assert failing.count() == 1
    assert failing.get_attribute("open") is not None


def test_all_is_printed_also_what_is_folded(opened):
    page = opened()
    page.emulate_media(media="print")
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 10
    assert len(page.pdf()) > 100_000


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen_and_no_label_is_cut(opened, width):
    page = opened(viewport={"width": width, "height": 900})
    page.evaluate(OPEN_ALL)
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    assert page.evaluate(WIDER) == []
    assert page.evaluate(LABELS) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_sample_is_not_wider_than_the_screen_and_its_labels_are_whole_and_apart(opened, width):
    page = opened(viewport={"width": width, "height": 900})
    page.goto((SAMPLE / "report.html").as_uri())
    page.evaluate(OPEN_ALL)
    assert page.evaluate(WIDER) == []
    assert page.evaluate(LABELS) == []
    assert page.evaluate(OVERLAPS) == []
    page.evaluate(
        "() => document.querySelectorAll('svg.plot text').forEach((one, index) => "
        "{ if (index % 9 === 0) one.after(one.cloneNode(true)); })"
    )
    assert page.evaluate(OVERLAPS) != []


def test_the_modules_of_the_sample_are_sorted_and_filtered_by_their_own_errors(opened):
    page = opened()
    page.goto((SAMPLE / "report.html").as_uri())
    page.evaluate(OPEN_ALL)
    for way in ("forward", "backward"):
        title = f"Own error, {way}"
        table = page.locator("[data-interactive]").filter(has_text=title).first
        column = table.locator("th").all_text_contents().index(title) + 1
        button = table.locator(f"th:nth-child({column}) button")
        for turn in (1, -1):
            button.click()
            texts = [text for text in shown(table, column) if text]
            values = [turn * float(text.removesuffix(" %").replace(",", "")) for text in texts]
            assert len(values) > 100
            assert values == sorted(values)
        table.locator("input[type=search]").fill("decoder.layers.1.")
        assert 5 < len(shown(table, 2)) < 40
        assert set(shown(table, 4)) == {"holds"}


def violations(page, rules=None):
    """What axe-core finds; `rules` None for all of WCAG 2.1 A and AA."""
    # Further rows of a table are like the first; axe takes minutes for thousands.
    page.evaluate(SHORTEN)
    page.evaluate(OPEN_ALL)
    page.evaluate(browser.axe_source())
    only = {"type": "rule", "values": rules} if rules else {"type": "tag", "values": LEVELS}
    return page.evaluate(AXE, only)


@pytest.mark.parametrize(("width", "scheme", "other"), [(360, *SCHEMES), (1440, *SCHEMES[::-1])])
def test_axe_finds_no_violation_of_wcag_aa(opened, width, scheme, other):
    page = opened(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    assert page.evaluate(GROUND) == GROUNDS[scheme]
    assert violations(page) == []
    page.emulate_media(color_scheme=other)
    assert page.evaluate(GROUND) == GROUNDS[other]
    assert violations(page, ["color-contrast"]) == []


def test_axe_would_notice_text_without_contrast(opened):
    page = opened(bypass_csp=True)
    page.evaluate("() => { document.querySelector('main .headline').style.color = '#cfe8d6'; }")
    (found,) = violations(page, ["color-contrast"])
    assert found.startswith("color-contrast: 1 nodes")


def test_a_page_that_is_too_wide_would_be_noticed(opened):
    page = opened(viewport={"width": 360, "height": 900})
    page.evaluate("() => { document.querySelector('h1').textContent = 'x'.repeat(200); }")
    page.evaluate("() => { document.querySelector('main p').style.width = '900px'; }")
    page.evaluate("() => { document.querySelector('main p').style.maxWidth = 'none'; }")
    assert page.evaluate("() => document.documentElement.scrollWidth") > 360
    assert page.evaluate(WIDER) != []


@pytest.fixture(scope="module")
def mixer(tmp_path_factory):
    """The report of a pair that is not MaskFormer, with three faults."""
    found = load([Path(__file__).parent / "mixer" / "faults.json"])
    return write_report(found, tmp_path_factory.mktemp("mixer")).as_uri()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_place_cause_and_next_step_are_on_the_first_screen(opened, mixer, scheme):
    page = opened(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
    page.goto(mixer)
    for text in ("2 more places", "epsilon 0.001", "gelu (tanh)", "a sum instead of a mean"):
        box = page.get_by_text(text).first.bounding_box()
        assert box["y"] + box["height"] < 900, text
    steps = page.locator(".places dd", has_text="then run parity audit --pair")
    assert steps.count() == 3
    assert all(one.bounding_box()["y"] < 880 for one in steps.all())


FIRST = {
    "keras3": ("norm", "epsilon 0.001 instead of 1e-05", "mend it in the port"),
    "planted": (
        "criterion: loss_mask",
        "focal alpha and 1 - alpha are swapped",
        "mend it in the port",
    ),
    "undecided": ("wave:output", "the reference is as far from itself", "Next: the same with"),
}


@pytest.mark.parametrize("name", FIRST)
def test_the_first_screen_of_other_reports_says_as_much(opened, tmp_path, name):
    recording = load([Path(__file__).parent / "mixer" / f"{name}.json"])
    page = opened(viewport={"width": 1440, "height": 900})
    page.goto(write_report(recording, tmp_path).as_uri())
    for text in FIRST[name]:
        box = page.locator("main").get_by_text(text).first.bounding_box()
        assert box["y"] + box["height"] < 900, text


def test_boxes_of_the_network_are_opened_by_the_keyboard_and_show_what_is_at_fault(opened, mixer):
    page = opened()
    page.goto(mixer)
    fault = page.locator(".hands .bad")
    assert [text.split("wrongly")[0].split()[-1] for text in fault.all_text_contents()] == [
        "head:input",
        "fc2:input",
    ]
    assert all(one.is_visible() for one in fault.all())
    tokens = page.locator("details.box", has=page.locator("> summary code", has_text="tokens"))
    closed = tokens.last
    assert closed.get_attribute("open") is None
    inner = closed.locator(".box").first
    assert not inner.is_visible()
    closed.locator("> summary").press("Enter")
    assert inner.is_visible()


@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_no_violation_on_the_page_of_a_pair(opened, mixer, width):
    page = opened(viewport={"width": width, "height": 900}, bypass_csp=True)
    page.goto(mixer)
    assert violations(page) == []
    assert page.evaluate(WIDER) == []
    assert page.evaluate(LABELS) == []
