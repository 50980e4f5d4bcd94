# %% [markdown]
# # How fast a slide becomes stored tiles, beside what else reads it, and how much memory a very large slide needs
#
# A JPEG pyramid of 20,480 x 16,384 px at 0.25 µm/px is cut into tiles of 512 px at 1 µm/px with 50 % overlap, stored at
# 224 px, in one thread. In the same run, one after the other and several times:
#
# - OpenSlide, read only: `read_region` of each tile from the level of 1 µm/px;
# - DeepZoom, read only: OpenSlide's generator, tiles of 256 px with an overlap of 128 px at that level (512 px in all);
# - the limit: the level decoded once, tile by tile of the file, cut from memory, resized and encoded, nothing else;
# - the store: `write_slide`, with tissue mask, table, checksums and all files.
#
# Prints tiles/s (the median) and the store's share of the limit (median over the repeats). `--sparse 100000` writes a
# pyramid of that side whose tiles are the same few JPEGs, cuts it in a process of its own, and prints its peak memory.
#
# Run: python experiments/benchmarks/cutting.py [--repeats 5] [--sparse 100000 --threads 2]
# %%

import argparse
import json
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import openslide
import tifffile
from openslide.deepzoom import DeepZoomGenerator

from melano_tf.phantoms.slides.pyramidal_tiff import write_pyramid
from melano_tf.pipelines.slide_cutting import write_slide
from melano_tf.pipelines.tile_store_settings import StoreSettings
from melano_tf.slides.slide import Slide
from melano_tf.slides.tiling import TileGrid, grid_origins

WANTED = {"limit": 0.7}
BESIDE = {
    "OpenSlide, read only": "OpenSlide, read only",
    "DeepZoom, read only": "OpenSlide's DeepZoom, read only",
    "limit": "level decoded once, cut, resized, encoded, nothing else",
}
SIZE, MPP, GRID, STORED = (20480, 16384), 0.25, TileGrid(), StoreSettings()


def texture(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Something that looks like stained tissue to a JPEG encoder and to the mask, BGR uint8."""
    noise = np.random.default_rng(seed).normal(0, 90, (rows, columns)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.clip(np.stack([160 + 4 * noise, 90 + 5 * noise, 190 + 3 * noise], -1), 20, 230).astype(np.uint8)


def draw(path: Path) -> None:
    """The slide of the comparison."""
    part = texture(1024, SIZE[0])
    write_pyramid(path, SIZE, lambda top, bottom: np.roll(part, top // 7, axis=1)[: bottom - top], MPP, 85)


# %% The four ways


def openslide_only(path: Path) -> int:
    """`read_region` of every tile."""
    origins = grid_origins(SIZE, (MPP, MPP), GRID)
    with openslide.OpenSlide(str(path)) as slide:
        for x, y in origins:
            np.asarray(slide.read_region((int(x), int(y)), 1, (512, 512)))
    return len(origins)


def deepzoom_only(path: Path) -> int:
    """Every tile of OpenSlide's DeepZoom generator at that level."""
    with openslide.OpenSlide(str(path)) as slide:
        zoom = DeepZoomGenerator(slide, tile_size=256, overlap=128, limit_bounds=False)
        level = zoom.level_count - 3  # a quarter of the full size
        columns, rows = zoom.level_tiles[level]
        for row in range(rows):
            for column in range(columns):
                np.asarray(zoom.get_tile(level, (column, row)))
    return columns * rows


def limit(path: Path) -> int:
    """The least that anybody must do: decode once, cut, resize, encode."""
    origins = grid_origins(SIZE, (MPP, MPP), GRID) // 4
    with tifffile.TiffFile(path) as file:
        page = file.pages[1]
        decode = page.decode  # looks into the file the first time
        level = np.empty(page.shape, np.uint8)
        for index, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
            file.filehandle.seek(offset)
            tile, place, shape = decode(file.filehandle.read(count), index)
            level[place[2] : place[2] + shape[1], place[3] : place[3] + shape[2]] = tile[0, : shape[1], : shape[2]]
    for x, y in origins:
        small = cv2.resize(level[y : y + 512, x : x + 512], (224, 224), interpolation=cv2.INTER_AREA)
        cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, STORED.jpeg_quality])
    return len(origins)


def store(path: Path) -> int:
    """What this project does."""
    with tempfile.TemporaryDirectory() as folder:
        row = {"slide_id": "slide", "path": str(path), "patient_id": "p", "label": "benign"}
        outcome = write_slide(row, GRID, STORED, Path(folder))
    assert outcome.status == "done" and outcome.reader == "tifffile", outcome
    return outcome.tiles


def rate(way: Callable[[Path], int], path: Path) -> float:
    """Tiles a second."""
    started = time.perf_counter()
    return way(path) / (time.perf_counter() - started)


# %% A very large slide


def write_sparse(path: Path, side: int) -> None:
    """A pyramid (1, 4, 16) of this side whose tiles are sixteen JPEGs over and over: 0.2 GB would be 30 otherwise."""
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    jpegs = [cv2.imencode(".jpg", texture(256, 256, seed), options)[1].tobytes() for seed in range(16)]
    content, places = bytearray(b"II*\0\0\0\0\0"), []
    for jpeg in jpegs:
        places.append(len(content))
        content += jpeg + b"\0" * (len(jpeg) % 2)
    pointer = 4
    for level in range(3):
        edge = -(-side // 4**level)
        count = (-(-edge // 256)) ** 2
        chosen = np.random.default_rng(level).integers(0, len(jpegs), count)
        arrays = []
        for values in (np.array(places)[chosen], np.array([len(jpeg) for jpeg in jpegs])[chosen]):
            arrays.append(len(content))
            content += values.astype("<u4").tobytes()
        per_cm = len(content)
        content += struct.pack("<II", round(1e4 / (MPP * 4**level) * 10_000), 10_000)
        bits = len(content)
        content += struct.pack("<HHHH", 8, 8, 8, 0)
        short, long, rational = 3, 4, 5
        entries = [
            (254, long, 1, int(level > 0)), (256, long, 1, edge), (257, long, 1, edge), (258, short, 3, bits),
            (259, short, 1, 7), (262, short, 1, 6), (277, short, 1, 3), (282, rational, 1, per_cm),
            (283, rational, 1, per_cm), (284, short, 1, 1), (296, short, 1, 3), (322, short, 1, 256),
            (323, short, 1, 256), (324, long, count, arrays[0]), (325, long, count, arrays[1]),
            (530, short, 2, 2 | 2 << 16),
        ]  # fmt: skip
        struct.pack_into("<I", content, pointer, len(content))
        content += struct.pack("<H", len(entries))
        content += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
        pointer = len(content) - 4
    path.write_bytes(content)


def cut_sparse(path: Path, threads: int) -> None:
    """Cut it and say what that took; in a process of its own."""
    cv2.setNumThreads(1)
    with Slide(path) as slide:
        size = slide.size
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        row = {"slide_id": "sparse", "path": str(path), "patient_id": "p", "label": "benign"}
        outcome = write_slide(row, GRID, STORED, Path(folder), threads=threads)
    seconds, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{size[0]} x {size[1]} px: {outcome.status}, {outcome.tiles} tiles, {outcome.tiles / seconds:.0f} tiles/s "
          f"with {threads} threads ({outcome.reader}), peak {peak:.0f} MiB")  # fmt: skip


# %%


def main() -> None:
    parser = argparse.ArgumentParser(description="Cutting beside OpenSlide, DeepZoom and its own limit.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sparse", type=int, default=0, help="side of a sparse slide in px, instead of the comparison")
    parser.add_argument("--threads", type=int, default=1, help="for --sparse")
    parser.add_argument("--cut", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="rows for run.py, a line each")
    options = parser.parse_args()
    if options.cut:
        cut_sparse(options.cut, options.threads)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tiff"
        if options.sparse:
            write_sparse(path, options.sparse)
            again = [sys.executable, __file__, "--cut", str(path), "--threads", str(options.threads)]
            subprocess.run(again, check=True)
            return
        draw(path)
        cv2.setNumThreads(1)
        ways = {"OpenSlide, read only": openslide_only, "DeepZoom, read only": deepzoom_only, "limit": limit}
        rates: dict[str, list[float]] = {name: [] for name in [*ways, "store"]}
        for _ in range(options.repeats):
            for name, way in {**ways, "store": store}.items():
                rates[name].append(rate(way, path))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    for name in list(ways) if options.json else []:
        row = {"work": "slide to stored tiles, one thread", "unit": "tiles/s", "own": middle["store"]}
        print(json.dumps({**row, "peer": middle[name], "beside": BESIDE[name], "wanted": WANTED.get(name)}))
    if options.json:
        return
    for name, values in rates.items():
        shares = [own / least for own, least in zip(values, rates["limit"], strict=True)]
        print(f"{name:<22} {statistics.median(values):6.0f} tiles/s   {statistics.median(shares):.2f} of the limit")


if __name__ == "__main__":
    main()
