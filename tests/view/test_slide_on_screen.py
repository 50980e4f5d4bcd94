"""A slide in the browser: what lies over it lies where it should, to one pixel of screenshots at three zooms; and it is
moved, pointed at and clicked by mouse and keyboard."""

import time
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("bokeh", reason="needs Bokeh: pip install 'melano_tf[view]'")
from melano_tf.slides.tissue import TissueMask
from melano_tf.view.asked_models import Map
from tests.view.browser import Browser, Running
from tests.view.made_run import BLOCK, MPP, SIZE, TISSUE, made_run, tiles_of

LAYERS = ("map", "mask", "grid", "cam")
MASK_PX = 16  # side of the mask's pixel, level-0 px
NEAR = 40  # px of the screen around a corner that are looked at
# A layer, one of its corners (level-0 px), and whether it lies right of and below that corner (1) or left and above.
# At the tissue's lower right corner the map ends because the tissue does: its tiles hang over.
CORNERS = (
    ("map", BLOCK[:2], 1),
    ("grid", BLOCK[:2], 1),
    ("map", BLOCK[2:], -1),
    ("grid", BLOCK[2:], -1),
    ("mask", TISSUE[:2], 1),
    ("mask", TISSUE[2:], -1),
    ("map", TISSUE[2:], -1),
)
ALL = "for (const r of model('stage').renderers) if (arguments[0].includes(r.name)) r.visible = true;"
ONLY = (
    "for (const r of model('stage').renderers) if (arguments[0].includes(r.name)) r.visible = r.name === arguments[1];"
)
WINDOW = """
const f = model('stage'), tall = arguments[2] * f.inner_height / f.inner_width;
f.x_range.setv({start: arguments[0] - arguments[2] / 2, end: arguments[0] + arguments[2] / 2});
f.y_range.setv({start: -arguments[1] - tall / 2, end: -arguments[1] + tall / 2});
"""
# Whether map and mask are there for the window, as fine as the screen, and the tiles' grid.
THERE = """
const f = model('stage'), x = f.x_range, y = f.y_range, px = (x.end - x.start) / f.inner_width;
const [width, height] = arguments, of = (name) => f.renderers.find((r) => r.name === name).data_source.data;
return of('grid').left.length === 12 && ['map', 'mask'].every((name) => { const d = of(name), i = d.image.length - 1;
  return i >= 0 && d.dw[i] / d.image[i].shape[1] <= px * 1.001
    && d.x[i] <= Math.max(0, x.start) && d.x[i] + d.dw[i] >= Math.min(width, x.end)
    && d.y[i] <= Math.max(-height, y.start) && d.y[i] + d.dh[i] >= Math.min(0, y.end); });
"""


class HandMade:
    """Masks of slides as this test draws them: exactly `TISSUE`."""

    def get(self, run: object, slide: object) -> TissueMask:
        """The mask of a slide."""
        left, top, right, bottom = (edge // MASK_PX for edge in TISSUE)
        mask = np.zeros((SIZE[1] // MASK_PX, -(-SIZE[0] // MASK_PX)), bool)
        mask[top:bottom, left:right] = True
        return TissueMask(mask, (MASK_PX * MPP, MASK_PX * MPP), 90.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running([made_run(tmp_path_factory.mktemp("made") / "run")])
    running.site.masks = HandMade()  # type: ignore[assignment]
    yield running
    running.stop()


def around(browser: Browser, middle: tuple[int, int], layer: str) -> np.ndarray:
    """The picture around a place of the screen with one of the layers only, int (h, w, 3)."""
    browser.run(ONLY, LAYERS, layer)
    browser.painted()
    return browser.picture((middle[0] - NEAR, middle[1] - NEAR, 2 * NEAR, 2 * NEAR)).astype(int)


def edge(changed: np.ndarray, inwards: int) -> float:
    """Where what is changed along a line begins (1) or ends (-1), px."""
    places = np.flatnonzero(changed > changed.max() / 2)
    assert changed.max() > 20, "nothing of the layer in sight"
    return float(places[0]) if inwards > 0 else float(places[-1] + 1)


def thin_line(changed: np.ndarray) -> float:
    """The middle of a thin line across, px."""
    assert changed.max() > 60, "no line in sight"
    return float((changed * (np.arange(len(changed)) + 0.5)).sum() / changed.sum())


def off(browser: Browser, corner: tuple[float, ...]) -> dict[tuple[str, tuple[float, ...]], tuple[float, ...]]:
    """How far the layers' corner in the middle of the window lies from where it should, px of the screen, (x, y)."""
    left, top, width, height = browser.frame()
    # Bokeh draws everything, the slide as well, half a pixel right and down, so that fine lines are crisp.
    true = left + width / 2 + 0.5, top + height / 2 + 0.5
    middle = round(true[0]), round(true[1])
    bare, found = around(browser, middle, "none of them"), {}
    for layer, _, inwards in (one for one in CORNERS if one[1] == corner):
        changed = np.abs(around(browser, middle, layer) - bare).sum(axis=2)
        inside = NEAR + 14 * inwards  # a row and a column that cross the layer's edges
        lines = changed[inside], changed[:, inside]
        if layer == "grid":  # without the lines of further tiles
            near = slice(NEAR - 5, NEAR + 6)
            places = [near.start + thin_line(line[near]) for line in lines]
        else:
            places = [edge(line, inwards) for line in lines]
        ends = (at + start - NEAR for at, start in zip(places, middle, strict=True))
        found[layer, corner] = tuple(end - wanted for end, wanted in zip(ends, true, strict=True))
    return found


@pytest.mark.parametrize("wide", [2600, 700, 90])
def test_maps_mask_and_grid_lie_in_place_to_one_pixel(server: Running, browser: Browser, wide: int) -> None:
    browser.open(f"{server.prefix}slide?run=0&case=0&layers=12&fade=1")
    found: dict[tuple[str, tuple[float, ...]], tuple[float, ...]] = {}
    for corner in dict.fromkeys(corner for _, corner, _ in CORNERS):
        browser.run(ALL, LAYERS)
        browser.run(WINDOW, *corner, wide)
        browser.until(lambda: browser.run(THERE, *SIZE))
        for _ in range(4):  # a picture that is there is painted a moment later
            here = off(browser, corner)
            if np.abs(list(here.values())).max() <= 1.0:
                break
        found |= here
    assert np.abs(list(found.values())).max() <= 1.0, found


def test_what_a_model_saw_in_a_tile_lies_on_that_tile_to_one_pixel(
    server: Running, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Map("CAM", np.ones((5, 3), np.float32), "")
    monkeypatch.setattr("melano_tf.view.pages.tile.tile_maps", lambda *asked: [seen])
    browser.open(f"{server.prefix}slide?run=0&case=0&layers=&map=no+map")
    browser.until(lambda: browser.run("return model('grid').data_source.data.left.length === 12"))
    browser.settled()
    row = tiles_of().iloc[11]
    browser.mouse(browser.point("stage", float(row["x"]) + 100, -float(row["y"]) - 100), click=True)
    browser.until(lambda: f"x {row['x']:,.0f}, y {row['y']:,.0f}" in browser.words())
    browser.press("c")
    browser.until(lambda: browser.run("return model('cam').data_source.data.image.length === 1"))
    begins = (float(row["x"]), float(row["y"]))
    ends = (begins[0] + float(row["w0"]), begins[1] + float(row["h0"]))
    for wide in (2600, 700, 90):
        for corner, inwards in ((begins, 1), (ends, -1)):
            browser.run(WINDOW, *corner, wide)
            browser.settled()
            left, top, width, height = browser.frame()
            true = left + width / 2 + 0.5, top + height / 2 + 0.5
            middle = round(true[0]), round(true[1])
            bare, with_it = (around(browser, middle, layer) for layer in ("none of them", "cam"))
            changed, inside = np.abs(with_it - bare).sum(axis=2), NEAR + 14 * inwards
            for line, at, wanted in zip((changed[inside], changed[:, inside]), middle, true, strict=True):
                assert abs(edge(line, inwards) + at - NEAR - wanted) <= 1.0, (wide, corner)


def test_a_slide_by_mouse_and_keyboard(server: Running, browser: Browser) -> None:
    browser.open(f"{server.prefix}slide?run=0&case=0")
    browser.until(lambda: "12 of 12 tiles at or above 0.50" in browser.words())
    last = tiles_of().iloc[11]
    browser.until(lambda: browser.run("return model('stage').below.some((one) => one.visible && one.title)"))
    browser.settled()
    place = browser.point("stage", float(last["x"]) + 100, -float(last["y"]) - 100)
    browser.mouse(place)
    browser.until(lambda: "tile: 11 value: 0.8642" in browser.words())
    browser.mouse(place, click=True)
    browser.until(lambda: f"tissue 100%, x {last['x']:,.0f}, y {last['y']:,.0f}" in browser.words())

    browser.mouse((5, 5))
    slider = browser.run("return view(titled('threshold')).shadow_el.querySelector('[role=slider]')")
    slider.send_keys("\ue010")  # the end key: the highest threshold
    browser.until(lambda: "8 of 12 tiles at or above 1.00 (the model's: 0.5)" in browser.words())

    where = "const f = model('stage'); return [f.x_range.start, f.x_range.end, f.y_range.start, f.y_range.end]"
    before = browser.run(where)
    middle = browser.point("stage", 1500, -1000)
    browser.mouse(middle, (middle[0] + 60, middle[1] + 30), (middle[0] + 120, middle[1] + 60), drag=True)
    width = browser.frame()[2]
    moved = browser.until(lambda: (now := browser.run(where)) != before and now)
    px = (before[1] - before[0]) / width
    expected = np.array(before) + np.array([-120, -120, 60, 60]) * px
    assert moved == pytest.approx(expected.tolist(), abs=2 * px)
    browser.press("g")
    browser.until(lambda: "layers=0%2C2" in browser.driver.current_url)
    browser.run(WINDOW, 1500, 1000, 90)
    browser.until(lambda: f"about {round(10 / (MPP * 90 / width), -1):.0f}x" in browser.words())


def test_the_slide_is_seen_before_bokeh_draws_it_in_the_same_place(server: Running, browser: Browser) -> None:
    tools = browser.driver.execute_cdp_cmd
    tools("Network.enable", {})
    for where in ("", "&x=640&y=500&w=700"):  # all of it, and the tissue's upper left corner
        pictures = []
        for blocked in (["*/static/js/*"], []):
            tools("Network.setBlockedURLs", {"urls": blocked})
            browser.driver.get(f"{server.prefix}slide?run=0&case=0&layers=&map=no+map{where}")
            if blocked:
                browser.until(
                    lambda: browser.driver.execute_script(
                        "return performance.getEntriesByType('resource').filter((e) => e.name.includes('/tile/')"
                        " && e.responseEnd > 0).length === document.querySelectorAll('#first image').length"
                    )
                )
                time.sleep(0.3)
            else:
                browser.until(lambda: browser.run("return model('stage') && !document.getElementById('first')"))
                browser.settled()
                left, top, width, height = browser.frame()
            pictures.append(browser.picture().astype(int))
        first, drawn = (
            one[top + 2 : top + height - 60, left + 2 : left + width - 2] for one in pictures
        )  # no scale bar
        assert np.ptp(drawn[..., 1]) > 100, "no edge in sight"
        # A pixel along all edges in sight is 0.0044 of the picture.
        assert (np.abs(first - drawn).sum(axis=2) > 60).mean() < 0.006
    faults = [
        one
        for one in browser.faults(server.prefix)
        if "ERR_BLOCKED_BY_CLIENT" not in one and "Bokeh is not defined" not in one
    ]
    assert not [one for one in faults if "favicon" not in one]
