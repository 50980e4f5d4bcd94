"""How fast the atlas shows a large slide, and how much memory it takes.

The slide is the large one of `cutting.py --sparse` (100,000 px wide and high, three levels, JPEG tiles); a run's
folder with two such slides, their tiles and a model's answer for each is put around it, and `view` serves it in a
process of its own. Measured from outside: with Chromium, the time from the address to the whole picture and to the map
over it; by HTTP on one open connection, as a browser has it, single tiles at random places, of six zooms as often, from
a cold cache (each asked for the first time) and a warm one (asked for again); and the resident memory while thousands
are drawn at random, which the cache cannot hold.

    python experiments/benchmarks/view.py
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

import numpy as np
import pandas as pd
from cutting import write_sparse

from melano_tf.pipelines.tfrecords import slide_files
from melano_tf.runs.predictions import predictions, write_predictions
from melano_tf.runs.run_folder import plan_key
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
    plan = {"settings": "s", "data": "d"}
    record = {"recipe": "spitzoid", "settings": {"slides": None, "seed": 0}, "plan": plan}
    (folder / "run.json").write_text(json.dumps(record))
    made = {"predictions/source.parquet": {"plan": plan_key(plan), "step": "source", "key": "k"}}
    (folder / "made.json").write_text(json.dumps(made))
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
    """Tiles at random places of the finest zooms, of each as many; none twice."""
    rng, pyramid = np.random.default_rng(seed), Pyramid((side, side))
    found = []
    for number, zoom in enumerate(range(pyramid.levels, pyramid.levels - zooms, -1)):
        across = math.ceil(side / (256 * pyramid.step(zoom)))
        wanted = min((count - len(found)) // (zooms - number), across**2)
        found += [(zoom, *divmod(int(place), across)) for place in rng.choice(across**2, wanted, replace=False)]
    return [found[place] for place in rng.permutation(len(found))]


READY = """
const m = window.Bokeh && Bokeh.documents[0] && Bokeh.documents[0].get_model_by_name('stage');
const v = m && Bokeh.index.find_one(m), r = m && m.renderers.find((one) => one.type === 'TileRenderer');
const t = v && r && v.views.find_one(r); return t && t.has_finished() ? performance.now() : null;"""
MAPPED = """
const m = Bokeh.documents[0].get_model_by_name('map');
return m.visible && m.data_source.data.image[0].length > 1 ? performance.now() : null;"""


def first_pictures(root: str) -> list[tuple[float, float]]:
    """Seconds from the address to a slide's whole picture in Chromium, and to the map over it: a fresh browser's first
    page, and further slides."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        return []
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(driver))

    def moment(script: str) -> float:
        end = time.monotonic() + 60
        while (done := browser.execute_script(script)) is None and time.monotonic() < end:
            time.sleep(0.02)
        return float(done or np.nan) / 1000

    times = []
    for case in (0, 1, 0, 1):
        browser.get(f"{root}slide?run=0&case={case}")
        times.append((moment(READY), moment(MAPPED)))
    browser.quit()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=100_000, help="of the slide, px")
    parser.add_argument("--tiles", type=int, default=5000, help="drawn at random while the memory is watched")
    parser.add_argument("--cache-mib", type=int, default=ViewSettings.cache_mib)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_run(Path(scratch) / "run", given.side)
        size = (folder / "phantoms/big/S0.tiff").stat().st_size
        print(f"slide {given.side:,} x {given.side:,} px, {size / 1e6:,.0f} MB; cache of {given.cache_mib} MiB")
        server = Server(folder, given.cache_mib)
        try:
            measure(server, given.side, given.tiles)
        finally:
            server.process.kill()


def measure(server: Server, side: int, count: int) -> None:
    """Measure and say."""
    print(f"memory at the start: {memory_mib(server.process.pid):.0f} MiB")
    times = first_pictures(server.root)
    words = ", ".join(f"{picture:.2f} ({mapped:.2f})" for picture, mapped in times) or "no Chromium"
    print(f"first picture, and map over it (a fresh browser, then further slides): {words} s")
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
