"""How fast the atlas shows a large slide and a gallery of many images, and how much memory it takes.

The slide is the large one of `cutting.py --sparse` (100,000 px wide and high, three levels, JPEG tiles); a run's
folder with two such slides, their tiles and a model's answer for each is put around it, and `view` serves it in a
process of its own. Measured from outside: with Chromium, the time from the address to the whole picture and to the map
over it; by HTTP on one open connection, as a browser has it, single tiles at random places, of six zooms as often, from
a cold cache (each asked for the first time) and a warm one (asked for again); and the resident memory while thousands
are drawn at random, which the cache cannot hold.

    python experiments/benchmarks/view.py

With `--gallery 25331` it is a run on as many images (links to 200 files of 600 x 450 px), and measured are the time to
the first page of pictures, the gaps between the frames while it is scrolled, the time until all pictures are there
after a jump, and until a filter is done.

    python experiments/benchmarks/view.py --gallery 25331
"""

import argparse
import http.client
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from cutting import write_sparse

from melano_tf.pipelines.tfrecords import slide_files
from melano_tf.runs.files_of_plan import plan_key
from melano_tf.runs.predictions import predictions, write_predictions
from melano_tf.view.deepzoom import Pyramid
from melano_tf.view.settings import ViewSettings

TILE = 1024  # side of a tile that the model judged, level-0 px
COUNT = 300  # tiles behind each percentile


def make_run(folder: Path, side: int, slides: int = 2) -> Path:
    """A run's folder: slides (links to one file), their tiles, and what a model said of each tile."""
    drawn, rng = folder / "phantoms" / "big", np.random.default_rng(0)
    drawn.mkdir(parents=True)
    write_sparse(drawn / "S0.tiff", side)
    for number in range(1, slides):
        (drawn / f"S{number}.tiff").hardlink_to(drawn / "S0.tiff")
    lines = ["slide_id,path,patient_id,label", *(f"S{n},S{n}.tiff,P{n},benign" for n in range(slides))]
    (drawn / "manifest.csv").write_text("\n".join(lines) + "\n")
    places = np.arange(0, side - TILE, TILE)
    x, y = (part.ravel() for part in np.meshgrid(places, places))
    tiles = pd.DataFrame({"tile": np.arange(len(x)), "x": x, "y": y, "w0": TILE, "h0": TILE, "tissue": 1.0})
    judged = []
    for name in (f"S{number}" for number in range(slides)):
        path = slide_files(folder / "tiles", name)[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        tiles.to_parquet(path)
        rows = tiles[["tile"]].assign(slide_id=name, group=name, part="test", target=0, region="tumour")
        judged.append(rows.assign(case=name + "/" + tiles["tile"].astype(str)))
    rows = pd.concat(judged, ignore_index=True)
    (folder / "predictions").mkdir()
    write_predictions(folder / "predictions" / "source.parquet", predictions(rows, rng.random(len(rows))))
    stand(folder, "spitzoid", {"slides": None, "seed": 0}, "source")
    return folder


def memory_mib(process: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def processor_s(process: int) -> float:
    """Seconds of processor time that a process has taken: what the clock shows on a machine that others share says
    little."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    """`view` in a process of its own."""

    def __init__(self, folder: Path, cache_mib: int) -> None:
        command = [sys.executable, "-m", "melano_tf.run", "view", str(folder), "--no-browser"]
        self.process = subprocess.Popen(
            [*command, "--cache-mib", str(cache_mib)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"http://\S+/", line):
                self.root = found[0]
                break
        where = urllib.parse.urlsplit(self.root)
        self.path, self.connection = where.path, http.client.HTTPConnection(where.hostname or "", where.port)

    def tile(self, zoom: int, column: int, row: int, case: int = 0) -> float:
        """Seconds that a tile took."""
        start = time.perf_counter()
        self.connection.request("GET", f"{self.path}tile/0/{case}/{zoom}/{column}/{row}.jpg")
        assert self.connection.getresponse().read()
        return time.perf_counter() - start


def random_tiles(side: int, count: int, seed: int, zooms: int = 6) -> list[tuple[int, int, int]]:
    """Tiles at random places of the finest zooms, of each as many, where it has as many; none twice."""
    rng, pyramid = np.random.default_rng(seed), Pyramid((side, side))
    found = []
    for number, zoom in enumerate(range(pyramid.levels - zooms + 1, pyramid.levels + 1)):
        across = math.ceil(side / (256 * pyramid.step(zoom)))
        wanted = min((count - len(found)) // (zooms - number), across**2)
        found += [(zoom, *divmod(int(place), across)) for place in rng.choice(across**2, wanted, replace=False)]
    return [found[place] for place in rng.permutation(len(found))]


# When each tile of the slide's first picture, which comes before Bokeh does, was painted.
WATCH = """
window.painted = []; window.expected = NaN;
new PerformanceObserver((list) => { for (const one of list.getEntries()) painted.push(one.renderTime); })
  .observe({type: 'element', buffered: true});
addEventListener('readystatechange', () => {
  if (document.readyState === 'interactive') expected = document.querySelectorAll('#first image').length; }, true);
"""
PAINTED = "return painted.length === expected ? Math.max(...painted) : Infinity;"
READY = """
const m = window.Bokeh && Bokeh.documents[0] && Bokeh.documents[0].get_model_by_name('stage');
const v = m && Bokeh.index.find_one(m), r = m && m.renderers.find((one) => one.type === 'TileRenderer');
const t = v && r && v.views.find_one(r); return t && t.has_finished() ? performance.now() : null;"""
MAPPED = """
const m = Bokeh.documents[0].get_model_by_name('map');
return m.visible && m.data_source.data.image.length ? performance.now() : null;"""


def make_gallery(folder: Path, count: int) -> Path:
    """A run's folder: images (links to few files), and what a model said of each."""
    drawn, rng = folder / "phantoms" / "many", np.random.default_rng(0)
    (drawn / "images").mkdir(parents=True)
    names, kinds = [f"ISIC_{number:07}" for number in range(count)], ("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df")
    for number, name in enumerate(names):
        path = drawn / "images" / f"{name}.jpg"
        if number < 200:
            blot = cv2.GaussianBlur(rng.normal(0, 900, (450, 600, 3)).astype(np.float32), (0, 0), 20)
            cv2.imwrite(str(path), np.clip(150 + blot, 0, 255).astype(np.uint8))
        else:
            path.hardlink_to(drawn / "images" / f"{names[number % 200]}.jpg")
    kind = rng.choice(len(kinds), count, p=(0.6, 0.1, 0.1, 0.1, 0.05, 0.03, 0.02))
    facts = {"age": rng.integers(2, 18, count) * 5.0, "sex": rng.choice(["male", "female"], count)}
    table = {"lesion_id": names, "image_id": names, "dx": np.array(kinds)[kind], "dx_type": "histo", **facts}
    sites = rng.choice(["back", "face", "foot", "scalp"], count)
    pd.DataFrame({**table, "localization": sites}).to_csv(drawn / "HAM10000_metadata.csv", index=False)
    answers = rng.dirichlet(np.ones(7) / 2, count) * 0.5 + 0.5 * np.eye(7)[np.where(rng.random(count) < 0.7, kind, 0)]
    rows = pd.DataFrame({"case": names, "group": names, "part": "test", "target": kind})
    (folder / "predictions").mkdir()
    write_predictions(
        folder / "predictions" / "flat.parquet", predictions(rows, answers, [one.upper() for one in kinds])
    )
    stand(folder, "weighting", {"table": [], "images": [], "seed": 0}, "flat")
    return folder


def stand(folder: Path, recipe: str, settings: dict[str, object], model: str) -> None:
    """Note a run, and that a model's predictions are of its present plan."""
    plan = {"settings": "s", "data": "d"}
    (folder / "run.json").write_text(json.dumps({"recipe": recipe, "settings": settings, "plan": plan}))
    made = {f"predictions/{model}.parquet": {"plan": plan_key(plan), "step": model, "key": "k"}}
    (folder / "made.json").write_text(json.dumps(made))


def first_pictures(root: str) -> list[tuple[float, float, float]]:
    """Seconds from the address to a slide's whole picture on the screen in Chromium, until it can be moved, and to the
    map over it: a fresh browser's first page, and further slides."""
    browser, times = chromium(), []
    if browser is None:
        return []
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    for case in (0, 1, 0, 1):
        browser.get(f"{root}slide?run=0&case={case}")
        movable, mapped = moment(browser, READY), moment(browser, MAPPED)
        painted = float(browser.execute_script(PAINTED) or np.inf) / 1000
        times.append((min(painted, movable), movable, mapped))
    browser.quit()
    return times


def chromium() -> Any:
    """A browser without a window, or None where there is none."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        return None
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=Service(driver))


def moment(browser: Any, script: str) -> float:
    """When a script first returns a time, in seconds; NaN after a minute."""
    end = time.monotonic() + 60
    while (done := browser.execute_script(script)) is None and time.monotonic() < end:
        time.sleep(0.02)
    return float(done or np.nan) / 1000


TABLE = """
const all = window.Bokeh && Bokeh.documents[0] ? [...Bokeh.documents[0]._all_models.values()] : [];
const table = all.find((m) => m.type === 'DataTable'), view = table && Bokeh.index.find_one(table);
const pane = view && view.shadow_el.querySelector('.slick-viewport');
const seen = () => { const r = pane.getBoundingClientRect(); return [...pane.querySelectorAll('img')].filter((i) => {
  const b = i.getBoundingClientRect(); return b.bottom > r.top && b.top < r.bottom; }); };
const loaded = () => { const s = seen(); return s.length > 0 && s.every((i) => i.complete && i.naturalWidth > 0); };
"""
SHOWN = TABLE + "return pane && loaded() ? performance.now() : null;"
SCROLL = (
    TABLE
    + """
const done = arguments[0], gaps = []; let last = performance.now();
const step = (now) => { gaps.push(now - last); last = now; pane.scrollTop += 40;
  gaps.length < 240 ? requestAnimationFrame(step) : done(gaps.slice(1)); };
requestAnimationFrame(step);"""
)
JUMP = (
    TABLE
    + """
const done = arguments[1], start = performance.now(); pane.scrollTop = pane.scrollHeight * arguments[0];
const look = () => loaded() ? done(performance.now() - start) : setTimeout(look, 10); setTimeout(look, 100);"""
)
FILTER = (
    TABLE
    + """
const done = arguments[1], start = performance.now(), before = table.source.data.n0;
all.find((m) => m.title === 'answers').value = arguments[0];
const look = () => table.source.data.n0 !== before && loaded() ? done(performance.now() - start) : setTimeout(look, 10);
look();"""
)


def measure_gallery(server: Server) -> None:
    """Measure and say."""
    browser = chromium()
    if browser is None:
        raise SystemExit("needs Chromium and its driver")
    browser.set_script_timeout(60)
    browser.get(f"{server.root}cases?run=0")
    print(f"first page of pictures: {moment(browser, SHOWN):.2f} s")
    gaps = np.array(browser.execute_async_script(SCROLL))
    words = f"median {np.median(gaps):.1f}, p95 {np.percentile(gaps, 95):.1f}, longest {gaps.max():.0f} ms"
    print(f"gaps between {len(gaps)} frames while it scrolls: {words}")
    jumps = [browser.execute_async_script(JUMP, share) / 1000 for share in (0.5, 0.9, 0.2)]
    print("all pictures there after a jump:", ", ".join(f"{one:.2f}" for one in jumps), "s")
    filters = [browser.execute_async_script(FILTER, kind) / 1000 for kind in ("wrong", "right", "all")]
    print("a filter done, with its pictures:", ", ".join(f"{one:.2f}" for one in filters), "s")
    print(f"memory then: {memory_mib(server.process.pid):.0f} MiB")
    browser.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=100_000, help="of the slide, px")
    parser.add_argument("--tiles", type=int, default=5000, help="drawn at random while the memory is watched")
    parser.add_argument("--cache-mib", type=int, default=ViewSettings.cache_mib)
    parser.add_argument("--gallery", type=int, default=0, help="so many images instead of slides")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        if given.gallery:
            make_gallery(folder, given.gallery)
            print(f"{given.gallery:,} images; cache of {given.cache_mib} MiB")
        else:
            make_run(folder, given.side)
            print(f"slide {given.side:,} x {given.side:,} px; cache of {given.cache_mib} MiB")
        server = Server(folder, given.cache_mib)
        try:
            if given.gallery:
                measure_gallery(server)
            else:
                measure(server, given.side, given.tiles)
        finally:
            server.process.kill()


def measure(server: Server, side: int, count: int) -> None:
    """Measure and say."""
    print(f"memory at the start: {memory_mib(server.process.pid):.0f} MiB")
    times = first_pictures(server.root)
    words = "; ".join(", ".join(f"{one:.2f}" for one in page) for page in times) or "no Chromium"
    print(f"first picture, movable, and map over it (a fresh browser, then further slides): {words} s")
    print(f"memory then: {memory_mib(server.process.pid):.0f} MiB")
    tiles = random_tiles(side, COUNT, seed=1)
    for name in ("cold", "warm"):
        before = processor_s(server.process.pid)
        took = np.array([server.tile(*tile) for tile in tiles]) * 1000
        own = (processor_s(server.process.pid) - before) / len(tiles) * 1000
        clock = f"median {np.median(took):.1f}, p95 {np.percentile(took, 95):.1f} ms"
        print(f"tile, {name} cache: {clock}; {own:.1f} ms of the server's processor time each", flush=True)
    watched = []
    drawn = random_tiles(side, count, seed=2)
    for number, tile in enumerate(drawn):
        server.tile(*tile)
        if number % 250 == 0 or number == len(drawn) - 1:
            watched.append(memory_mib(server.process.pid))
    print(f"memory over {len(drawn):,} tiles, MiB:", ", ".join(f"{one:.0f}" for one in watched))


if __name__ == "__main__":
    main()
