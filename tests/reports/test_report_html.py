"""The report of a run: what stands in it, and what must not."""

import base64
import io
import json
import math
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from melano_tf import run
from melano_tf.errors import InputError
from melano_tf.evaluation.interval import Interval
from melano_tf.reports.embedded_pictures import GRADES, KEPT, Source, album, encode
from melano_tf.reports.published_numbers import load_published
from melano_tf.reports.report_html import leaks_of, write_report
from melano_tf.reports.run_contents import (
    ShownTable,
    command_text,
    durations,
    exclusions,
    headlines,
    said_once,
    time_text,
)
from melano_tf.reports.tables import Headline, Table, interval_table
from melano_tf.runs.files_of_plan import Standing, plan_key
from melano_tf.runs.judgements import read_record
from tests.reports.made_run import (
    HOSTILE,
    MODEL,
    PICTURE,
    PLAN,
    bare_run,
    made_run,
    of_its_plan,
    predictions,
    write_json,
)

CASES = [f"ISIC_{number:03}" for number in range(40)]


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside != "style":
            self.text += data


def read(path: Path) -> tuple[str, Elements]:
    page = path.read_text(encoding="utf-8")
    return page, Elements(page)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with hostile text everywhere."""
    folder = tmp_path_factory.mktemp("report") / "run"
    return write_report(made_run(folder, predictions([*CASES[:-1], HOSTILE]), HOSTILE + PICTURE))


def test_a_reader_finds_what_the_run_was(written: Path) -> None:
    text = " ".join(read(written)[1].text.split())
    for words in (
        "ZooME: Efficient Melanoma Detection",
        "Phantoms.",
        "2 settings of the method differ.",
        "training.epochs330",
        "2 left out, each with its reason",
        "its file is missing",
        "it ends early",
        "40 images of 20 patients or lesions: 20 benign, 20 melanoma",
        "0.8123",
        "0.7012 to 0.9034",
        "python -m melano_tf.run zoome --out",
        "1 min 3 s",
        "2 cores, 1 thread used",
        "abc123",
        "Not for diagnosis",
        "Loss by epoch: standin-zoom-metadata.",
    ):
        assert words.replace(" ", "") in text.replace(" ", ""), words
    # the curves are drawn from the predictions where the recipe drew none
    assert "ZooME: ROC. Sensitivity against" in text and "5 pictures" not in text and "6 pictures stand inside" in text


def test_the_first_numbers_are_the_tables_own(tmp_path: Path, written: Path) -> None:
    around = Interval(0.52, 0.3, 0.6, 0, 100, 40, 0.95)
    models = {"CEL": {"BAcc": around}, "FL": {"BAcc": Interval(math.nan, math.nan, math.nan, 0, 100, 40, 0.95)}}
    frame = interval_table(models, load_published("weighting"), 2, published_as={}, metrics=("BAcc",))
    first = tuple(Headline("BAcc", name, f"flat network, {name}") for name in ("CEL", "FL", "CEL-CB", "no such"))
    [one] = headlines(Table("Table 2", frame, unit="lesions", headlines=first))
    assert (one.label, one.value) == ("flat network, CEL", "0.5200"), "what is undefined or was not run is passed over"
    assert (one.interval, one.paper) == ("95% interval 0.3000 to 0.6000, 40 lesions", "0.7250")
    page, elements = read(written)
    assert "First numbers" in page and "95% interval 0.7012 to 0.9034, 20 patients" in elements.text
    assert "First numbers" not in read(write_report(bare_run(tmp_path / "run")))[0]


def test_what_several_tables_say_is_said_once(written: Path) -> None:
    page, elements = read(written)
    assert page.count("Said of several.") == 1 and "Notes on several tables" in page
    assert len(re.findall(r'<a href="#notes">Notes above</a>: 1', page)) == 2
    assert elements.text.count("A note") == 1
    tables = [ShownTable(str(k), "", "", [], [], notes) for k, notes in enumerate([["a", "b"], ["b", "c"], ["c", "b"]])]
    shown, notes = said_once(tables)
    assert notes == ["b", "c"] and [one.notes for one in shown] == [["a"], [], []]
    assert [one.shared for one in shown] == [[1], [1, 2], [1, 2]]


def test_what_several_pictures_and_models_have_in_common_is_said_once(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", predictions(CASES))
    record = json.loads((folder / "run.json").read_text())
    [own] = record["judged"]
    record["judged"] = [own, {**own, "name": "AlexNet"}]
    (folder / "run.json").write_text(json.dumps(record))
    card = json.loads((folder / "models" / f"{MODEL}-fold-1.json").read_text())
    write_json(folder / "models" / f"{MODEL}-fold-2.json", {**card, "threshold": 0.25})
    text = " ".join(read(write_report(of_its_plan(folder)))[1].text.split())
    assert text.count("Of the cases given a probability, how many were so?") == 1
    assert "2 pictures, …: calibration: Of the cases" in text
    assert "ZooME: calibration." in text and "AlexNet: calibration." in text
    assert text.count("40 images of 20 patients") == 1 and "judged: ZooME, AlexNet" in text
    assert "The same for all of them: classes benign, melanoma; input 32 px" in text
    assert text.count("benign, melanoma") == 1 + text.count("20 benign, 20 melanoma") - 1


def test_text_from_data_is_escaped(written: Path) -> None:
    page, elements = read(written)
    assert HOSTILE not in page and "<img src=x" not in page
    assert not [tag for tag, _ in elements.found if tag == "script"]
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert elements.text.count(HOSTILE) >= 6, "escaped, it is still to be read"


def test_nothing_leaves_the_file(written: Path) -> None:
    page, elements = read(written)
    for tag, attributes in elements.found:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if (value := attributes.get(name)) is not None:
                assert value.startswith(("data:", "#")), (tag, value[:80])
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)[0]
    assert "url(" not in style and "@import" not in style
    policy = [a["content"] for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    pictures = [attributes for tag, attributes in elements.found if tag == "img"]
    assert len(pictures) == 6 and all(one["alt"] for one in pictures)
    for one in pictures:  # each is a whole picture of the size that is said
        data = base64.b64decode(str(one["src"]).partition(",")[2])
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (int(str(one["width"])), int(str(one["height"])))


def test_the_same_folder_gives_the_same_bytes(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = written.read_bytes()
    assert run.main(["report", str(written.parent)]) == 0
    assert "report.html (6 pictures inside" in capsys.readouterr().out
    assert written.read_bytes() == before


@pytest.mark.parametrize("recipe", ["zoome", "spitzoid", "multimag", "weighting", "similarity", "of-tomorrow"])
def test_missing_pieces_are_missing_in_the_report_too(tmp_path: Path, recipe: str) -> None:
    path = write_report(bare_run(tmp_path / "run", recipe))
    text = read(path)[1].text
    assert "Nothing was left out" in text and "0 pictures stand inside" in text and "not recorded" in text
    assert "does not list them" in text


def test_own_data_are_named_and_damaged_predictions_said(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", predictions(CASES), table=["/data/train.csv"])
    [table] = (folder / "predictions").glob("*.parquet")
    table.write_bytes(b"torn")
    (folder / "figures" / "metadata.png").write_bytes(b"torn")
    text = read(write_report(folder))[1].text
    assert "Phantoms." not in text and "/data/train.csv" in text
    assert "cannot be read" in text and "metadata.png" in text and "1 was left out" in text


def test_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["report", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(InputError, match="not a run's record"):
        write_report(tmp_path)


def test_pictures_fit_the_budget_and_are_counted(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    sources: list[Source] = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Image.fromarray(noise.integers(0, 255, (300, 1900, 3), dtype=np.uint8)).save(path)
        sources.append(Source(path.name, "noise", path))
    small = tmp_path / "small.png"
    Image.new("RGB", (30, 20), "red").save(small)
    sources.insert(0, Source("small.png", "red", small))
    whole = album(sources, budget=50_000_000)
    assert whole.pictures["small.png"].uri.startswith("data:image/png") and small.stat().st_size < KEPT
    assert whole.shrunk == [f"{n}.png" for n in range(4)] and not whole.left_out
    assert whole.pictures["0.png"].width == 1800
    less = album(sources, budget=whole.bytes // 3)
    assert less.bytes <= whole.bytes // 3 and less.pictures["0.png"].width < 1800 and not less.left_out
    sizes = [len(encode((tmp_path / source.name).read_bytes(), *GRADES[-1])[0]) for source in sources]
    least = album(sources, budget=sum(sizes[:3]))
    assert [name for name, _ in least.left_out] == ["2.png", "3.png"], "the last ones"
    assert list(least.pictures) == ["small.png", "0.png", "1.png"] and least.bytes == sum(sizes[:3])


def test_the_time_of_steps_of_other_settings_is_not_counted(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", predictions(CASES))
    for name, plan in (("train/b/fold-1", PLAN), ("train/c/fold-1", {**PLAN, "settings": "before"})):
        output = f"models/{Path(name).parent.name}.keras"
        (folder / output).write_text(name)
        write_json(folder / "steps" / f"{name}.json", {"key": "k", "seconds": 7.0, "outputs": {output: {}}})
        made = json.loads((folder / "made.json").read_text())
        write_json(folder / "made.json", {**made, output: {"plan": plan_key(plan), "step": name, "key": "k"}})
    record = read_record(folder)
    grouped, steps = durations(Standing(folder, record), record)
    assert [name for name, _ in steps] == ["images", "train/a/fold-1", "train/b/fold-1"]
    assert ("train", "2", "9.0 s") in grouped and grouped[-1][:2] == ("all", "3")


def test_times_of_a_damaged_record_are_none(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", predictions(CASES))
    state = folder / "steps" / "images.json"
    state.write_text(state.read_text().replace("61.4", "NaN"))
    record = read_record(folder)
    assert [name for name, _ in durations(Standing(folder, record), record)[1]] == ["train/a/fold-1"]
    write_report(folder, lambda line: None)
    shutil.rmtree(folder / "steps")
    odd = {"read": 61.4, "odd": math.nan, "text": "soon", "list": [1]}
    steps = durations(Standing(folder, record), {**record, "durations": odd})[1]
    assert steps == [("read", "1 min 1 s"), *((name, "0.0 s") for name in ("odd", "text", "list"))]


def test_small_texts() -> None:
    assert [time_text(s) for s in (1.26, 59.9, 61.4, 3600 * 3 + 300)] == ["1.3 s", "59.9 s", "1 min 1 s", "3 h 5 min"]
    assert command_text(["/a/run.py", "zoome", "--out", "my runs"]) == "python -m melano_tf.run zoome --out 'my runs'"
    rows = [{"slide_id": "S1", "status": "failed", "reason": "torn"}]
    assert exclusions({"excluded": rows, "undecodable": {"I1": "not a picture"}}) == [
        ("S1", "torn"),
        ("I1", "not a picture"),
    ]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium; the tests are skipped where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install '.[test]'")
    service = pytest.importorskip("selenium.webdriver.chrome.service").Service(driver)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("chromium")
    for flag in (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=service)
    found.set_page_load_timeout(60)
    found.get("about:blank")
    yield found
    found.quit()


def show(browser: Any, path: Path, width: int, scheme: str = "light", media: str = "") -> None:
    """Load the report in a window of this width, in a colour scheme, on a screen or for print."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    preferred = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [preferred]})
    browser.get(path.as_uri())


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_it_without_fault_or_request(browser: Any, written: Path, width: int) -> None:
    browser.get_log("performance"), browser.get_log("browser")
    show(browser, written, width)
    assert browser.title.startswith("zoome"), "no hostile text has run"
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {written.as_uri()}
    sizes = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    wide, seen = browser.execute_script(sizes)
    assert wide <= seen, "the page itself does not scroll sideways"
    assert browser.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_dark_mode_and_print(browser: Any, written: Path) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    show(browser, written, 1280)
    light = browser.execute_script(ground)
    show(browser, written, 1280, "dark")
    assert browser.execute_script(ground) != light == "rgb(255, 255, 255)"
    hidden = "return [...document.querySelectorAll('details table')].map(t => t.checkVisibility())"
    seen = list(browser.execute_script(hidden))
    show(browser, written, 1280, media="print")
    printed = "return [...document.querySelectorAll('details table')].map(t => t.getBoundingClientRect().height)"
    assert not all(seen) and all(height > 0 for height in browser.execute_script(printed)), "print shows what is folded"
    assert browser.execute_script(ground) == light


def test_the_keyboard_is_enough(browser: Any, written: Path) -> None:
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    show(browser, written, 400)
    active = browser.switch_to.active_element
    active.send_keys(keys.TAB)
    skip = browser.switch_to.active_element
    assert skip.get_attribute("class") == "skip" and skip.rect["x"] >= 0
    assert browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    summary = browser.execute_script("return document.querySelector('details:not([open]) summary')")
    before = browser.execute_script("return arguments[0].parentElement.open", summary)
    summary.send_keys(keys.ENTER)
    assert not before and browser.execute_script("return arguments[0].parentElement.open", summary)
    boxes = "return [...document.querySelectorAll('.wide, pre, .large .picture')].every(b => b.tabIndex === 0)"
    assert browser.execute_script(boxes), "what scrolls can be scrolled by keys"


def test_leaks_by_kind_and_by_partition() -> None:
    assert leaks_of({"patient": 2, "lesion": 0}) == {"patient": 2}
    nested = {"cluster": {"lesion": 97, "near": 1}, "lesion": {}}
    assert leaks_of(nested) == {"lesion (partition by cluster)": 97, "near (partition by cluster)": 1}
