"""The atlas in a real browser, on the tiny runs that the recipes' tests share. Skipped where there is no Chromium."""

import csv
import json
import shutil
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bokeh.palettes import Cividis256

from melano_tf.errors import InputError
from melano_tf.reports.run_contents import read_tables
from melano_tf.view.asked_models import Models, ask, image_maps, tile_maps
from melano_tf.view.model_predictions import read_tiles
from melano_tf.view.overlays import slide_tiles
from melano_tf.view.run_cases import read_run
from tests.papers.tiny import TinyRun
from tests.view.browser import Browser, Running, running, serving
from tests.view.made_run import write_pyramid

OUTLINE = (0x00, 0x72, 0xB2)  # the colour of the first class's outline
SLIDE = (3000, 2000)  # level-0 px
BOX = (1301, 717, 2111, 1405)  # left, top, right, bottom of what is outlined, on no tile's edge


@pytest.fixture(scope="module")
def two_runs(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server on the shared slide run and a copy of it, for tests that write nothing."""
    other = tmp_path_factory.mktemp("view") / "other"
    shutil.copytree(tiny_run.folder, other)
    running = Running([tiny_run.folder, other])
    yield running
    running.stop()


def copy(run: TinyRun, folder: Path) -> Path:
    """A run's folder that may be written to."""
    return Path(shutil.copytree(run.folder, folder / run.folder.name))


def notes_of(run: Path, reader: str) -> list[dict[str, str]]:
    with (run / "notes" / f"{reader}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def put_box(run: Path, slide: str) -> None:
    """In the place of a slide: a black box on white, outlined exactly."""
    [path] = run.glob(f"phantoms/*/{slide}.tiff")
    image = np.full((SLIDE[1], SLIDE[0], 3), 255, np.uint8)
    left, top, right, bottom = BOX
    image[top:bottom, left:right] = 0
    path.unlink()
    write_pyramid(path, image, 0.25)
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    path.with_suffix(".geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))


def tiles_are_there(browser: Browser) -> bool:
    """Whether every tile of the window has come."""
    code = """
    const v = view(model('stage')), r = model('stage').renderers.find((one) => one.type === 'TileRenderer');
    const t = v.views.find_one(r); return t.has_finished();"""
    return bool(browser.run(code))


def edges(picture: np.ndarray, frame: tuple[int, int, int, int]) -> tuple[float, float]:
    """Where the black box begins across and down, in px of the frame, from a window on its upper left corner."""
    left, top, width, height = frame
    grey = picture[top : top + height, left : left + width].mean(axis=2)
    # A little below and right of the corner everything is box.
    return begins(grey[round(height / 2 + 12)]), begins(grey[:, round(width / 2 + 12)])


def begins(light: np.ndarray) -> float:
    """Where the first dark pixel begins; the share of it that is light counts as light."""
    first = int(np.flatnonzero(light < 127)[0])
    return float(first + light[first] / 255)


def line(picture: np.ndarray, frame: tuple[int, int, int, int]) -> tuple[float, float]:
    """The middle of the outline's vertical and horizontal line, in px of the frame."""
    left, top, width, height = frame
    part = picture[top : top + height, left : left + width].astype(int)
    like = np.abs(part - np.array(OUTLINE)).sum(axis=2) < 90
    across = np.flatnonzero(like[round(height / 2 + 12), : width // 2 + 12])
    down = np.flatnonzero(like[: height // 2 + 12, round(width / 2 + 12)])
    assert len(across) and len(down), "no outline in sight"
    return float(across.mean() + 0.5), float(down.mean() + 0.5)


def test_zoome_a_model_that_is_asked_says_what_it_said(tiny_zoome) -> None:
    run = read_run(tiny_zoome.folder)
    models = Models()
    page = next(one for name, one in run.models.items() if name.endswith("zoom-metadata"))
    for place in (0, 5):
        row = page.frame.iloc[place]
        known = run.cases.set_index("case").loc[row["case"]]
        facts = {"age": float(known["age"]), "sex": known["sex"], "site": known["site"]}
        found = ask(models, run, row["stem"], Path(known["path"]), facts)
        assert found.probabilities[1] == pytest.approx(row["p1"], abs=1e-4)
        other = ask(
            models, run, row["stem"], Path(known["path"]), {"age": float("nan"), "sex": "unknown", "site": "unknown"}
        )
        assert other.probabilities[1] != pytest.approx(found.probabilities[1], abs=1e-9)
        [grad] = image_maps(models, run, row["stem"], Path(known["path"]), facts, int(row["called"]))
        assert grad.name == "Grad-CAM" and grad.values.min() >= 0 and grad.values.max() <= 1
        assert f"speaks for {page.classes[int(row['called'])]}; " in grad.words


def test_spitzoid_a_tile_model_is_asked_what_it_saw(tiny_run) -> None:
    run = read_run(tiny_run.folder)
    gap = next(one for name, one in run.tile_models.items() if name.endswith("-gap"))
    slide, stem = next(iter(gap.stem_of.items()))
    tile = int(slide_tiles(run, slide)["tile"].iloc[-1])
    found = tile_maps(Models(), run, slide, tile, "", stem, 1)
    assert [one.name for one in found] == ["CAM", "Grad-CAM"]
    assert all(one.values.shape[0] == one.values.shape[1] and one.values.max() <= 1 for one in found)
    assert all(f"speaks for {gap.classes[1]}; " in one.words for one in found)
    with pytest.raises(InputError, match="not stored"):
        tile_maps(Models(), run, slide, 99_999, "", stem, 1)


def test_multimag_a_tile_model_of_three_classes_is_asked_of_one(multimag_run) -> None:
    run, models = read_run(multimag_run.folder), Models()
    nevi = next(one for one in run.tile_models.values() if len(one.classes) == 3)
    slide, stem = next(iter(nevi.stem_of.items()))
    tile = read_tiles(run.standing, nevi, slide).iloc[-1]
    likely = int(np.argmax([tile[f"p{place}"] for place in range(3)]))
    at = int(tile["tile"]), str(tile["magnification"])
    maps = {wanted: tile_maps(models, run, slide, *at, stem, wanted) for wanted in (0, 1, 2, None)}
    for wanted, found in maps.items():
        name = nevi.classes[likely if wanted is None else wanted]
        assert found and all(f"speaks for {name}; " in one.words for one in found)
    assert np.array_equal(maps[None][-1].values, maps[likely][-1].values)


def test_spitzoid_outlines_lie_on_the_slide_to_one_pixel_at_three_zooms(tiny_run, tmp_path, browser) -> None:
    run = copy(tiny_run, tmp_path)
    put_box(run, "P02-1")
    with running([run]) as server:
        for wide in (2600, 700, 90):
            where = {"run": 0, "case": 1, "x": BOX[0], "y": BOX[1], "w": wide, "map": "no map"}
            measured = []
            for layers in ("", "0"):
                browser.open(server.prefix + "slide?" + urllib.parse.urlencode({**where, "layers": layers}))
                browser.until(lambda: tiles_are_there(browser))
                asked = browser.run("const r = model('stage').x_range; return r.end - r.start")
                assert asked == pytest.approx(wide, rel=1e-6)
                frame = browser.frame()
                find = line if layers else edges
                measured.append(browser.until(lambda find=find, frame=frame: find(browser.picture(), frame)))
            assert measured[1] == pytest.approx(measured[0], abs=1.0), f"{wide} px wide"
        assert not [fault for fault in browser.faults(server.prefix) if "favicon" not in fault]


def unnamed(browser: Browser) -> list[str]:
    """What a screen reader would find on the page without a name."""
    roles = (
        "button",
        "combobox",
        "textbox",
        "slider",
        "checkbox",
        "radio",
        "image",
        "link",
        "grid",
        "listbox",
        "spinbutton",
    )
    browser.driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    browser.driver.execute_cdp_cmd("Accessibility.disable", {})
    seen = [node for node in nodes if not node.get("ignored") and node.get("role", {}).get("value") in roles]
    assert seen
    return [node["role"]["value"] for node in seen if not node.get("name", {}).get("value", "").strip()]


def test_spitzoid_two_runs_stand_beside_each_other_and_are_panned_together(two_runs, browser) -> None:
    browser.open(two_runs.prefix + "slide?run=0&case=1")
    browser.until(lambda: tiles_are_there(browser))
    browser.until(lambda: "the run's numbers, and the paper's" in browser.words())
    options = browser.run("return titled('beside it').options.map((one) => one[0])")
    theirs = next(one for one in options if one.startswith("1:tumour"))
    browser.choose("colours", "cividis (for colour-blind eyes)")
    where = "const r = model('stage').x_range; return [r.start, r.end]"
    whole = browser.run(where)
    browser.choose("beside it", theirs)
    browser.until(lambda: browser.run("const m = model('beside'); return !!(m && view(m) && m.inner_width)"))
    time.sleep(1)  # in which the frames are laid out and painted anew
    assert browser.run(where) == whole
    browser.press("f")
    browser.run("model('stage').x_range.setv({start: 400, end: 800})")
    span = "const r = model('beside').x_range; return [r.start, r.end]"
    assert browser.until(lambda: browser.run(span)) == [400, 800]
    drawn = "return model('beside').renderers.find((r) => r.name === 'map')"
    browser.until(lambda: browser.run(f"{drawn}.visible"))
    colours = "{0}.glyph.color_mapper.palette[255].slice(0, 7)"
    first = browser.run("return " + colours.format("model('stage').renderers.find((r) => r.name === 'map')"))
    theirs = browser.run("return " + colours.format(f"({drawn.removeprefix('return ')})"))
    assert theirs == first == Cividis256[255]
    browser.until(lambda: "beside=1" in browser.driver.current_url)
    browser.choose("beside it", "")  # and alone again, which goes on being moved
    browser.until(lambda: browser.run("return !(model('beside') && view(model('beside')))"))
    browser.press("f")
    browser.run("model('stage').x_range.setv({start: 500, end: 700})")
    fine = "const d = {0}.data_source.data; return d.image.length === 2 && d.x[1] <= 500 && d.x[1] + d.dw[1] >= 700"
    drawn = "model('stage').renderers.find((r) => r.name === 'map')"
    browser.until(lambda: browser.run(fine.format(drawn)))


def test_spitzoid_a_slide_run_is_read_and_noted(tiny_run, tmp_path, browser) -> None:
    run = copy(tiny_run, tmp_path)
    with serving([run]) as server:
        browser.open(server.address)
        listed = browser.until(lambda: browser.table("case"))
        browser.choose("part", "test")
        tested = browser.until(lambda: len(rows := browser.table("case")) < len(listed) and rows)
        assert set(browser.table("part")) == {"test"} and all(p == p for p in browser.table("p"))
        sent = browser.until(lambda: (url := browser.driver.current_url) and "part=test" in url and url)
        browser.open(sent)
        browser.until(lambda: browser.table("case") == tested)
        order = [int(number) for number in browser.table("number")]
        browser.open(server.prefix + f"slide?run=0&case={order[0]}&fade=0.25")
        browser.until(lambda: tiles_are_there(browser))
        assert not unnamed(browser)
        browser.press("n")  # the next of the list, seen in the same way
        browser.until(
            lambda: f"case={order[1]}" in browser.driver.current_url and "fade=0.25" in browser.driver.current_url
        )
        browser.open(sent)
        browser.until(lambda: browser.table("case") == tested)
        browser.choose("slide or patient", tested[0])
        browser.until(lambda: browser.table("case") == tested[:1])

        browser.open(server.prefix + "slide?run=0&case=1")
        browser.until(lambda: tiles_are_there(browser))
        options = browser.run("return titled('map (o: next)').options")
        tumour = next(name for name in options if name.startswith("tumour"))
        browser.choose("map (o: next)", tumour)
        browser.until(lambda: "tiles at or above 0.50" in browser.words())
        before = browser.words()
        browser.choose("threshold", 0.01)
        browser.until(lambda: "at or above 0.01" in browser.words())
        assert browser.words() != before
        browser.marked("fly:").click()
        span = "return model('stage').x_range.end - model('stage').x_range.start"
        browser.until(lambda: browser.run(span) == pytest.approx(3 * 1024))  # three tiles wide

        middle = "const f = model('stage'); return [f.x_range, f.y_range].map((r) => (r.start + r.end) / 2)"
        browser.mouse(browser.point("stage", *browser.run(middle)), click=True)  # the tile that was flown to
        browser.until(lambda: "tissue" in browser.words() and "x " in browser.words())
        browser.press("c")
        browser.until(lambda: browser.run("return titled('seen').visible"), 60)
        assert browser.value("seen") in ("CAM", "Grad-CAM")

        browser.choose("reader", "ada")
        browser.choose("note", "nests, =1+1 \n“quoted”, and\tmore")
        browser.click("note-disagree")
        browser.until(lambda: "kept: disagree" in browser.words())
        browser.press("u")
        browser.until(lambda: "kept: unsure" in browser.words())
        server.kill()
    notes = notes_of(run, "ada")
    assert [note["verdict"] for note in notes] == ["disagree", "unsure"]
    assert notes[0]["text"] == "nests, =1+1 \n“quoted”, and\tmore"


def test_spitzoid_a_sent_address_shows_the_same_place(two_runs, browser) -> None:
    browser.open(two_runs.prefix + "slide?run=0&case=2")
    browser.until(lambda: tiles_are_there(browser))
    browser.choose("opacity (f: fade)", 0.8)
    browser.run("model('stage').x_range.setv({start: 500, end: 900})")
    browser.run(
        "const f = model('stage'); f.y_range.setv({start: -900, end: -900 + 400 * f.inner_height / f.inner_width})"
    )
    sent = browser.until(
        lambda: (url := browser.driver.current_url) and "fade=0.80" in url and "w=400.0" in url and url
    )
    browser.driver.get("about:blank")
    browser.open(sent)
    browser.until(lambda: tiles_are_there(browser))
    start, end = browser.run("const r = model('stage').x_range; return [r.start, r.end]")
    assert (start, end) == pytest.approx((500, 900), abs=0.5)
    assert browser.value("opacity (f: fade)") == pytest.approx(0.8)


def test_spitzoid_a_vanished_slide_is_said_in_its_place(tiny_run, tmp_path, browser) -> None:
    run = copy(tiny_run, tmp_path)
    [path] = run.glob("phantoms/*/P03-1.tiff")
    path.unlink()
    with running([run]) as server:
        browser.open(server.prefix + "slide?run=0&case=2")
        browser.until(lambda: "no such file" in browser.words())
        browser.open(server.prefix + "slide?run=0&case=0")
        browser.until(lambda: tiles_are_there(browser))


def contrast(browser: Browser, name: str) -> float:
    """Contrast of a button's words against its ground, 1 to 21 (WCAG)."""
    code = """
    const style = getComputedStyle(view(model(arguments[0])).shadow_el.querySelector('button'));
    const light = (words) => { const c = words.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]; };
    const both = [light(style.color), light(style.backgroundColor)].sort((a, b) => b - a);
    return style.opacity * (both[0] + 0.05) / (both[1] + 0.05);"""
    return float(browser.run(code, name))


def test_zoome_images_with_metadata_are_asked_what_if(tiny_zoome, tmp_path, browser) -> None:
    run = copy(tiny_zoome, tmp_path)
    with running([run]) as server:
        browser.open(server.address)
        browser.until(lambda: "of them wrong" in browser.words())
        total = browser.words().split(" images;")[0].split()[-1]
        browser.choose("answers", "wrong")
        browser.until(lambda: f" of {total} images" in browser.words() and f"{total} of {total}" not in browser.words())
        names = browser.run("return titled('model').options")
        name = next(one for one in names if one.endswith("zoom-metadata"))
        browser.open(server.prefix + f"image?run=0&case=3&model={name}")
        browser.until(lambda: "what if" in browser.words())
        browser.choose("sex", "unknown")
        browser.until(lambda: "as recorded" in browser.words(), 60)
        browser.press("c")
        browser.until(lambda: browser.run("return titled('map').visible"), 60)
        assert browser.value("map") == "Grad-CAM"


def test_similarity_a_lasso_fills_the_gallery(tiny_similarity, browser) -> None:
    with running([tiny_similarity.folder]) as server:
        browser.open(server.prefix + "map?run=0")
        browser.until(lambda: " 0 of " in browser.words())
        dots = "const d = model('map').renderers[0].data_source.data; return [[...d.x], [...d.y], [...d.case]]"
        x, y, cases = browser.run(dots)
        order = np.argsort(x)
        inner = np.diff(np.array(x)[order])[3:-3]
        cut = 4 + int(np.argmax(inner))  # the line falls into the widest gap
        right = (x[order[cut - 1]] + x[order[cut]]) / 2
        ends = "const f = model('map'); return [f.x_range.start, f.y_range.start, f.y_range.end]"
        left, low, high = browser.run(ends)
        ring = [(left, low), (left, high), (right, high), (right, (low + high) / 2), (right, low)]
        points = [browser.point("map", *place) for place in ring]
        browser.mouse(*(_inside(point, points) for point in points), drag=True)
        browser.until(lambda: f" {cut} of " in browser.words())
        shown = [number for place in range(8) for number in browser.table(f"n{place}") if number >= 0]
        named = read_run(tiny_similarity.folder).cases["case"]
        assert {named[number] for number in shown} == {cases[place] for place in order[:cut]}
        browser.mouse(browser.point("map", x[order[0]], y[order[0]]))
        browser.until(lambda: cases[order[0]] in browser.words())  # in what is said of the point
        browser.open(server.prefix + "image?run=0&case=0")
        browser.until(lambda: "most alike" in browser.words())


def _inside(point: tuple[int, int], points: list[tuple[int, int]]) -> tuple[int, int]:
    """A point on the rim of a plot, a little inside of it."""
    (left, top), (right, bottom) = np.min(points, axis=0), np.max(points, axis=0)
    return min(max(point[0], int(left) + 3), int(right)), min(max(point[1], int(top) + 3), int(bottom) - 3)


def test_weighting_a_cell_and_a_point_of_a_curve_are_doors(tiny_weighting, browser) -> None:
    with running([tiny_weighting.folder]) as server:
        browser.open(server.prefix + "curves?run=0")
        browser.until(lambda: "of them wrong" in browser.words())
        point = browser.run("""
            const d = model('ROC curve').renderers.map((r) => r.data_source.data).find((d) => d.threshold);
            const i = Math.floor(d.threshold.length / 2); return [d.fpr[i], d.tpr[i], d.threshold[i]];""")
        before = browser.words()
        browser.mouse(browser.point("ROC curve", *point[:2]), click=True)
        browser.until(lambda: f"At {point[2]:.3f}: sensitivity {point[1]:.3f}" in browser.words())
        assert f"At {point[2]:.3f}" not in before and browser.value("threshold") == pytest.approx(point[2])
        truth, called, link, count = browser.run("""
            const d = model('matrix').renderers[0].data_source.data, i = [...d.count].findIndex((n) => n > 0);
            return [d.truth[i], d.called[i], d.link[i], d.count[i]];""")
        browser.mouse(browser.point("matrix", called, truth))
        browser.until(lambda: f"{count}, " in browser.words() and "of the class" in browser.words())
        browser.mouse(browser.point("matrix", called, truth), click=True)
        browser.until(lambda: "/cases?" in browser.driver.current_url)
        assert browser.driver.current_url.endswith(link)
        browser.until(lambda: f"{count} of " in browser.words())


def test_multimag_blind_reading_hides_what_it_must(multimag_run, tmp_path, browser) -> None:
    run = copy(multimag_run, tmp_path)
    with serving([run]) as server:
        browser.driver.get(server.prefix)
        browser.driver.add_cookie({"name": "shade", "value": "dark", "path": "/"})
        browser.open(server.prefix + "blind?run=0&reader=bo")
        browser.until(lambda: "Neither labels" in browser.words())
        assert contrast(browser, "blind-nevus") > 4.5  # not to be pressed yet, but to be read
        browser.driver.delete_cookie("shade")
        browser.click("begin")
        browser.until(lambda: "0 of " in browser.words() and browser.run("return !!model('stage')"))
        page = browser.driver.page_source + browser.words()
        assert not [name for name in ("P01-1", "P02-1", "P03-1", "intradermal") if name in page]
        browser.press("1")
        browser.until(lambda: "1 of " in browser.words())
        server.kill()
    [note] = notes_of(run, "bo")
    assert note["mode"] == "blind" and note["verdict"] == "nevus" and note["seed"] == "0"


def test_spitzoid_the_page_of_all_runs(tiny_run, two_runs, browser) -> None:
    browser.open(two_runs.prefix)
    browser.until(lambda: "Phantoms" in browser.words())
    first = read_tables(read_run(tiny_run.folder).standing).first
    assert first and all(f"{one.value} {one.interval}" in browser.words() for one in first[:2])
