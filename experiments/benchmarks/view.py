"""How fast the atlas shows a large slide, and how much memory it takes.

A slide is drawn once (a repeated texture, JPEG tiles, three levels), a run's folder is put around it, and `view` serves
it in a process of its own. Measured from outside, by HTTP: single tiles at random places of six zooms from a cold cache
(each asked for the first time) and a warm one (asked for again); the resident memory while thousands are drawn at
random from a cache that is too small for them; and, with Chromium, the time from the address to a whole picture.

    python experiments/benchmarks/view.py --width 65536 --height 49152 --tiles 5000
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np

from melano_tf.phantoms.slides.pyramidal_tiff import write_pyramid
from melano_tf.view.deepzoom import Pyramid

MPP = 0.25
COUNT = 300  # tiles behind each percentile


def draw_slide(path: Path, size: tuple[int, int]) -> None:
    """A slide full of a texture with as much detail as stained tissue, so that decoding costs what it does there."""
    rng = np.random.default_rng(0)
    rows = 1024
    noise = cv2.GaussianBlur(rng.normal(0, 60, (rows, 4096)).astype(np.float32), (0, 0), 2)
    patch = np.clip(np.stack([170 + 2 * noise, 110 + 4 * noise, 190 + noise], -1), 0, 255).astype(np.uint8)
    wide = np.tile(patch, (1, -(-size[0] // 4096), 1))[:, : size[0]]
    write_pyramid(path, size, lambda top, bottom: np.roll(wide, top // 7, axis=1)[: bottom - top], MPP, 80)


def make_run(folder: Path, size: tuple[int, int], slides: int = 2) -> Path:
    """A run's folder with nothing but slides (links to one file)."""
    drawn = folder / "phantoms" / "big"
    drawn.mkdir(parents=True)
    draw_slide(drawn / "S0.tiff", size)
    for number in range(1, slides):
        (drawn / f"S{number}.tiff").hardlink_to(drawn / "S0.tiff")
    lines = ["slide_id,path,patient_id,label", *(f"S{n},S{n}.tiff,P{n},benign" for n in range(slides))]
    (drawn / "manifest.csv").write_text("\n".join(lines) + "\n")
    (folder / "run.json").write_text(json.dumps({"recipe": "spitzoid", "settings": {"slides": None, "seed": 0}}))
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

    def tile(self, zoom: int, column: int, row: int, case: int = 0) -> float:
        """Seconds that a tile took."""
        start = time.perf_counter()
        with urllib.request.urlopen(f"{self.root}tile/0/{case}/{zoom}/{column}/{row}.jpg") as answer:
            assert answer.read()
        return time.perf_counter() - start


def random_tiles(size: tuple[int, int], count: int, seed: int) -> list[tuple[int, int, int]]:
    """Tiles at random places, of a zoom as often as it has tiles; none twice.

    Raises:
        SystemExit: the slide has fewer.
    """
    rng, pyramid = np.random.default_rng(seed), Pyramid(size)
    every: list[tuple[int, int, int]] = []
    for zoom in range(max(0, pyramid.levels - 5), pyramid.levels + 1):
        side = 256 * pyramid.step(zoom)
        across, down = (-int(-length // side) for length in size)
        every += [(zoom, column, row) for column in range(across) for row in range(down)]
    if len(every) < count:
        raise SystemExit(f"the slide has {len(every):,} tiles, not {count:,}; choose a larger one, or fewer --tiles")
    return [every[place] for place in rng.permutation(len(every))[:count]]


def first_picture(root: str) -> list[float]:
    """Seconds from the address to a slide's whole picture in Chromium: the first page, and another slide's after it."""
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
    ready = """
    const m = window.Bokeh && Bokeh.documents[0] && Bokeh.documents[0].get_model_by_name('stage');
    const v = m && Bokeh.index.find_one(m), r = m && m.renderers.find((one) => one.type === 'TileRenderer');
    const t = v && r && v.views.find_one(r); return t && t.has_finished() ? performance.now() : null;"""
    times = []
    for case in (0, 1, 0, 1):
        browser.get(f"{root}slide?run=0&case={case}")
        end = time.monotonic() + 60
        while (done := browser.execute_script(ready)) is None and time.monotonic() < end:
            time.sleep(0.02)
        times.append(float(done or np.nan) / 1000)
    browser.quit()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=65536)
    parser.add_argument("--height", type=int, default=49152)
    parser.add_argument("--tiles", type=int, default=5000, help="drawn at random while the memory is watched")
    parser.add_argument("--cache-mib", type=int, default=128)
    given = parser.parse_args()
    size = (given.width, given.height)
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        folder = make_run(Path(scratch) / "run", size)
        print(f"slide {size[0]:,} x {size[1]:,} px, {(folder / 'phantoms/big/S0.tiff').stat().st_size / 1e6:,.0f} MB")
        print(f"drawn in {time.perf_counter() - start:.0f} s")
        server = Server(folder, given.cache_mib)
        try:
            print(f"memory at the start: {memory_mib(server.process.pid):.0f} MiB")
            times = first_picture(server.root)
            words = ", ".join(f"{one:.2f}" for one in times) or "no Chromium"
            print(f"first picture (a fresh browser, then further slides): {words} s")
            tiles = random_tiles(size, COUNT, seed=1)
            for name in ("cold", "warm"):
                before = processor_s(server.process.pid)
                took = np.array([server.tile(*tile) for tile in tiles]) * 1000
                own = (processor_s(server.process.pid) - before) / len(tiles) * 1000
                clock = f"median {np.median(took):.1f}, p95 {np.percentile(took, 95):.1f} ms"
                print(f"tile, {name} cache: {clock}; {own:.1f} ms of the server's processor time each", flush=True)
            watched = []
            for number, tile in enumerate(random_tiles(size, given.tiles, seed=2)):
                server.tile(*tile)
                if number % 250 == 0:
                    watched.append(memory_mib(server.process.pid))
                    print(f"  after {number:,} tiles {watched[-1]:.0f} MiB", flush=True)
            watched.append(memory_mib(server.process.pid))
            print("memory over the tiles, MiB:", ", ".join(f"{one:.0f}" for one in watched))
        finally:
            server.process.kill()


if __name__ == "__main__":
    main()
