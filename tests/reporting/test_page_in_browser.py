"""The page as a person sees it: in Chromium, on a desk and on a phone, in light and dark, with hostile data."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import pytest
from PIL import Image

from adafv.pipeline.store.storage import Storage
from adafv.reporting.page import render
from adafv.reporting.pictures import Access
from adafv.reporting.report import make_report
from tests.browser import DESKTOP, PHONE, Browser, browser
from tests.reporting.outputs import label, reject, run, write

__all__ = ["browser"]
# Each would set window.planted, or add an element with the class `planted`, were it taken for markup.
PLANTED = (
    "<script>window.planted=1</script>",
    "\"'><img class=planted src=x onerror=window.planted=1>",
    "</title></style></script></textarea><svg class=planted onload=window.planted=1>",
    "javascript:window.planted=1",
    '" onmouseover=window.planted=1 autofocus onfocus=window.planted=1 x="',
    "{{ 7 * 7 }}<!--<iframe class=planted srcdoc='<script>parent.planted=1</script>'>",
)
GRID = [
    {"rows": 6, "columns": 6, "top": 0.0, "left": 0.0, "bottom": 1.0, "right": 1.0},
    {"rows": 8, "columns": 12, "top": 0.0, "left": 0.0, "bottom": 1.0, "right": 1.0},
]


def pictured(id: str, number: int, **values) -> dict:
    """A label with kept tokens of both panels and of every cue."""
    kept = list(range(number % 5, 132, 5))
    cues = list(islice(cycle((0, 1, 2, 3)), len(kept)))
    figures = {"visual_tokens": 132, "kept_tokens": len(kept), "from_text": number, "from_saliency": 15}
    drawn = {"kept_indices": kept, "kept_cues": cues, "grid": GRID}
    return label(id, 0.02 * (number + 1), after=20 * number) | figures | drawn | values


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report of some thirty labels with pictures, and rejects."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "in").mkdir()
    for number in range(30):
        size = ((640, 420), (300, 700), (1200, 90))[number % 3]
        Image.new("RGB", size, (8 * number, 120, 200)).save(folder / "in" / f"{number}.jpg")
    labels = [pictured(f"row-{n}", n, image=f"{n}.jpg", mean_logprob=-0.1 * n) for n in range(28)]
    labels.append(pictured("w" * 300, 28, question="long " * 900, answer="unbroken" * 200, image="28.jpg"))
    rejects = [reject("bad", "image_corrupt"), reject("long", "prompt_too_long", image="29.jpg")]
    record = run(input=31, seconds=60.0, worker_seconds=90.0, price=2.0, config={"input": [str(folder / "in")]})
    return written(folder, labels, [record], rejects)


def written(folder: Path, labels, runs, rejects=()) -> Path:
    report = make_report(write(folder / "out", labels, runs, rejects))
    path = folder / "report.html"
    path.write_text(render(report, Access(Storage())), encoding="utf-8")
    return path


@pytest.mark.parametrize("size", [DESKTOP, PHONE, (320, 640)], ids=["desk", "phone", "small phone"])
def test_it_fits_the_screen_and_nothing_complains(browser: Browser, page: Path, size):
    browser.open(page, size)
    assert browser.complaints() == []
    assert browser.run("return document.scrollingElement.scrollWidth") <= size[0]
    beyond = """return [...document.querySelectorAll('body *')].filter(each => {
        const box = each.getBoundingClientRect();
        return box.width && box.right > innerWidth + 1 && !each.closest('.scroll, svg, td, .key, .question, .answer');
    }).map(each => each.outerHTML.slice(0, 200))"""
    assert browser.run(beyond) == []


def test_it_asks_the_network_for_nothing(browser: Browser, page: Path):
    browser.open(page)
    assert browser.requests() == [page.as_uri()]
    assert browser.run("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))") == []


def test_letters_can_be_read_on_a_phone(browser: Browser, page: Path):
    browser.open(page, PHONE)
    smallest = """return Math.min(...[...document.querySelectorAll('svg text')].map(each =>
        parseFloat(getComputedStyle(each).fontSize) * each.getScreenCTM().a))"""
    assert browser.run(smallest) >= 10


def test_it_is_dark_where_that_is_wished(browser: Browser, page: Path):
    seen = []
    for dark in (False, True):
        browser.open(page, dark=dark)
        seen.append(
            [browser.run(f"return getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")]
        )
    light, dark = ([_brightness(colour) for colour in colours] for colours in seen)
    assert light[0] > 200 > 80 > light[1] and dark[0] < 60 < 180 < dark[1]


def _brightness(colour: str) -> float:
    """Of what CSS calls rgb(r, g, b)."""
    return sum(map(float, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3


def test_kept_tokens_are_drawn_over_their_images(browser: Browser, page: Path):
    browser.open(page)
    colours = """const card = document.querySelector('.sample');
        return ['text', 'saliency', 'both', 'neither'].map(cue =>
            getComputedStyle(card.querySelector('.marks .' + cue)).stroke)"""
    assert len(set(browser.run(colours))) == 4
    inside = """return [...document.querySelectorAll('.drawing')].every(each => {
        const frame = each.getBoundingClientRect(), marks = each.querySelector('.marks')?.getBoundingClientRect();
        return !marks || marks.left > frame.left - 2 && marks.right < frame.right + 2
            && marks.top > frame.top - 2 && marks.bottom < frame.bottom + 2; })"""
    assert browser.run(inside)
    kinds = "['.sample:not(.reject)', '.drawing image', '.reject image']"
    drawn = f"return {kinds}.map(each => document.querySelectorAll(each).length)"
    labels, images, rejects = browser.run(drawn)
    assert labels > 12 and images == labels + 1 and rejects == 1, "of the rejects, the one whose image was sound"


def test_kinds_and_marks_can_be_chosen_without_a_script(browser: Browser, page: Path):
    browser.open(page)
    shown = "return [...document.querySelectorAll('.sample')].filter(each => each.offsetParent).length"
    every = browser.run(shown)
    browser.run("document.querySelector('label[for=kind-slow]').click()")
    assert browser.run(shown) == 12 < every
    marks = "return getComputedStyle(document.querySelector('.slow .marks')).display"
    assert browser.run(marks) != "none"
    browser.run("document.querySelector('label[for=marks]').click()")
    assert browser.run(marks) == "none"


def test_links_lead_to_the_rows_cards(browser: Browser, page: Path):
    browser.open(page)
    targets = browser.run("return [...document.querySelectorAll('a')].map(each => each.getAttribute('href'))")
    assert targets and all(target.startswith("#") for target in targets)
    missing = "return arguments[0].filter(each => !document.getElementById(each.slice(1)))"
    assert browser._driver.execute_script(missing, targets) == []
    browser.run("document.querySelector('label[for=kind-reject]').click(); document.querySelector('.rows a').click()")
    shown = "return document.querySelector(':target').getBoundingClientRect().height > 0"
    assert browser.run(shown), "a card that a link leads to is shown, whatever kind was chosen"


def test_an_id_can_be_copied_in_full(browser: Browser, page: Path):
    browser.open(page)
    chosen = """const code = [...document.querySelectorAll('.key code')].find(each => each.textContent.length == 300);
        getSelection().selectAllChildren(code); return getSelection().toString()"""
    assert browser.run(chosen) == "w" * 300


@pytest.mark.parametrize("text", PLANTED, ids=range(len(PLANTED)))
def test_nothing_that_data_say_runs_or_becomes_an_element(browser: Browser, tmp_path, text):
    """In every column that the page shows, in records of runs, and in paths."""
    shown = ("id", "image", "question", "answer", "finish_reason", "strategy")
    labels = [pictured(f"{name}-{n}", n) | {name: text} for n, name in enumerate(shown)]
    labels += [pictured("run", 9, run_id=text), pictured("all", 10) | dict.fromkeys(shown, text)]
    rejects = [reject(text, "prompt_too_long", image=text, question=text, message=text)]
    rejects += [reject("other", text, stage=text, message=text, run_id=text)]
    record = run(devices=[{"device": text, "instance": text, "workers": 2}], status=text, config={"input": [text]})
    path = written(tmp_path, labels, [record, run("second") | {"run_id": text}], rejects)
    browser.open(path)
    assert browser.run("return window.planted") is None
    assert (
        browser.run("return document.querySelectorAll('.planted, script, iframe, object, embed, link, base').length")
        == 0
    )
    attributes = "return [...document.querySelectorAll('*')].flatMap(each => [...each.attributes].map(one => one.name))"
    assert not [
        name for name in browser.run(attributes) if name.startswith("on") or name in ("src", "autofocus", "srcdoc")
    ]
    assert browser.requests() == [path.as_uri()]
    assert browser.complaints() == [], "the policy had to forbid something"
    assert text in browser.run("return document.body.textContent")
