"""The steps on images that recipes share, one at a time: copies of what cannot be hashed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from melano_tf.dermoscopy import duplicates
from melano_tf.dermoscopy.image_files import UnreadableImageError, read_image
from melano_tf.papers.image_steps import copies_of, find_copies, usable_images
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.splits.undivided_groups import pair_places
from melano_tf.view.embedding import Embedding
from tests.papers.zoome_run import ZOOME


def copies(tmp_path: Path, sums: dict[str, str], files: dict[str, Path]) -> tuple[list[list[str]], list[str]]:
    """What `find_copies` writes, as [image, image, kind], and what it says."""
    said: list[str] = []
    found = SimpleNamespace(sums=sums, findings=SimpleNamespace(listed_duplicates=()))
    records = pd.DataFrame({"image_id": list(sums), "path": [str(files[name]) for name in sums]})
    work: Any = SimpleNamespace(
        value=lambda step: found,
        once=lambda key, make: (records, None),
        path=lambda name: tmp_path / name,
        settings=SimpleNamespace(store=SimpleNamespace(max_pixels=10**6)),
        workers=1,
        say=said.append,
    )
    [table] = find_copies(work, ImageCacheSettings(stored_px=16), near=True)
    return pd.read_csv(table)[["image_1", "image_2", "kind"]].to_numpy().tolist(), said


def test_identical_images_that_cannot_be_hashed_are_a_pair_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    files = {}
    for name in ("a", "b", "c", "d", "e", "f", "g", "h"):
        files[name] = tmp_path / f"{name}.png"
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(files[name])
    files["b"].write_bytes(files["a"].read_bytes())
    files["d"].write_bytes(files["c"].read_bytes())
    sums = {name: duplicates.file_sha256(path) for name, path in files.items()}

    def unable(path: Path | str, *given: Any, **more: Any) -> np.ndarray:
        if Path(path).stem not in "abg":
            raise UnreadableImageError("out of scans")
        return read_image(path, *given, **more)

    pairs, said = copies(tmp_path, sums, files)
    assert pairs == [["a", "b", "exact"], ["c", "d", "exact"]] and said == []
    monkeypatch.setattr(duplicates, "read_image", unable)
    pairs, said = copies(tmp_path, sums, files)
    assert pairs == [["a", "b", "exact"], ["c", "d", "exact"]]
    assert said == ["  5 images without a hash, of which only identical copies are found: c, d, e, f, h"]


def test_images_whose_names_look_like_a_missing_value_stay_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["NA", "nan", "007", "null"]
    (tmp_path / "images.csv").write_text("image_id,aspect,unreadable\nNA,1.5,\nnan,1.5,\n007,1.5,\nnull,,all black\n")
    (tmp_path / "copies.csv").write_text("image_1,image_2,kind,distance\nNA,nan,near,3\nNA,007,listed,\n")
    found = SimpleNamespace(there=pd.DataFrame({"image_id": names}))
    said: list[str] = []
    work: Any = SimpleNamespace(
        value=lambda step: found,
        once=lambda key, make: make(),
        path=lambda name: tmp_path / name,
        settings=SimpleNamespace(cache=tmp_path),
        run=SimpleNamespace(note=lambda **notes: None),
        say=said.append,
    )
    monkeypatch.setattr("melano_tf.papers.image_steps.cached", lambda *given: None)
    records, _ = usable_images(work, ImageCacheSettings())
    assert records["image_id"].tolist() == names[:3] and said == ["  left out: null: all black"]
    pairs = pair_places(copies_of(work), records["image_id"].tolist())
    assert pairs == {"near": [(0, 1)], "listed": [(0, 2)]}
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "clusters.csv").write_text("image_id,source,cluster\nNA,a,1\nnan,a,0\n")
    np.save(tmp_path / "clusters" / "embedding.npy", np.eye(2, dtype=np.float32))
    seen: Any = SimpleNamespace(folder=tmp_path, standing=SimpleNamespace(holds=Path.is_file))
    embedding = Embedding.read(seen)
    assert embedding is not None and embedding.nearest("NA", 1) == [("nan", 1.0)]
    points = tmp_path / "clusters" / "embedding.npy"
    points.write_bytes(points.read_bytes().replace(b"}", b" ", 1))  # a head that ends too early
    assert Embedding.read(seen) is None


def test_a_crowd_without_hashes_makes_as_many_pairs_as_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 6000
    names = [f"i{place}" for place in range(count)]
    blank = np.zeros((1, 32), np.uint8)
    prints = duplicates.Fingerprints(
        ("i7",), ("s",), blank, np.zeros((1, duplicates.TURNS, 32), np.uint8), np.zeros(1, bool), ()
    )
    lost = tuple((name, "out of scans") for name in names if name != "i7")
    monkeypatch.setattr(
        "melano_tf.papers.image_steps.fingerprints",
        lambda files, settings, progress, most: duplicates.Fingerprints(**{**vars(prints), "unreadable": lost}),
    )
    pairs, said = copies(tmp_path, dict.fromkeys(names, "s"), dict.fromkeys(names, tmp_path / "x.png"))
    assert len(pairs) == count - 1 and {pair[0] for pair in pairs} == {"i0"}
    assert said[0].startswith("  5,999 images without a hash") and said[0].endswith(": i0, i1, i2, i3, i4, …")


@pytest.mark.parametrize("shared", [False, True])
def test_damaged_decoded_images_are_named_by_doctor_and_decoded_again(inside, tmp_path: Path, shared: bool) -> None:
    out, cache = tmp_path / "run", tmp_path / "cache"
    command = ("zoome", "--out", str(out), *ZOOME, "--steps", "images")
    command += ("--cache", str(cache)) * shared

    def doctor() -> list[str]:
        done = inside("doctor", "--run", str(out), "--out", str(tmp_path))
        assert done.code == (2 if "WRONG" in done.shown else 0)
        return [line.partition("WRONG  ")[2] for line in done.shown.splitlines() if "WRONG" in line]

    assert inside(*command).code == 0 and doctor() == []
    [shard] = (cache if shared else out / "images").glob("*.npy")
    (shard.parent / "feedfacefeedface.tiff").write_text("somebody's")
    content, table = shard.read_bytes(), shard.with_suffix(".json")
    told = table.read_bytes()
    for damaged in (b"", told[: len(told) // 2], b"null"):
        table.write_bytes(damaged)
        [line] = doctor()
        assert line.startswith(f"{shard}: is missing, or it or its .json is not as it was written")
        again = inside(*command)
        assert again.code == 0 and "did 0 steps" in again.shown, again.errors
        assert table.read_bytes() == told and shard.read_bytes() == content and doctor() == []
    shard.write_bytes(content[:-3] + bytes([content[-3] ^ 16]) + content[-2:])
    [line] = doctor()
    assert line.startswith(f"{shard}: row ") and line.endswith("remove it, and give the command again")
    shard.unlink()
    assert inside(*command).code == 0 and shard.read_bytes() == content and doctor() == []
