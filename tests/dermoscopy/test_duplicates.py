"""Duplicates: exact ones by content, near ones by hash, against a loop over all pairs."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from melano_tf.dermoscopy.duplicates import (
    TURNS,
    DuplicateSettings,
    Fingerprints,
    close_pairs,
    duplicate_groups,
    duplicate_pairs,
    fingerprints,
    listed_pairs,
    same_content,
)
from melano_tf.errors import InputError
from melano_tf.phantoms.skin.isic_data_sets import PhantomDermoscopy

sys.path.insert(0, str(Path(__file__).parent))
from isic_files import save


def textured(seed: int) -> np.ndarray:
    """A picture with detail at every scale, as photographs have it; uint8 (192, 256, 3)."""
    rng = np.random.default_rng(seed)
    total = np.zeros((192, 256))
    for cells in (3, 6, 12, 24, 48):
        total += cv2.resize(rng.normal(size=(cells, cells)), (256, 192), interpolation=cv2.INTER_CUBIC) / np.sqrt(cells)
    scaled = (total - total.min()) / (total.max() - total.min())
    return np.repeat((255 * scaled).astype(np.uint8)[..., None], 3, axis=-1)


@pytest.mark.parametrize("count", [0, 1, 2, 40, 600])
def test_close_pairs_are_those_of_a_loop(count: int) -> None:
    rng = np.random.default_rng(count)
    hashes = rng.integers(0, 256, (count, 3), dtype=np.uint8)  # 24 bits: not a multiple of a word
    bits = np.unpackbits(hashes, axis=1).astype(int)
    usable = rng.uniform(size=count) < 0.9
    expected = [
        (i, j, int(np.abs(bits[i] - bits[j]).sum()))
        for i in range(count)
        for j in range(i + 1, count)
        if usable[i] and usable[j] and np.abs(bits[i] - bits[j]).sum() <= 5
    ]
    found = list(zip(*(values.tolist() for values in close_pairs(hashes, 5, usable)), strict=True))
    assert sorted(found) == expected
    others = rng.permutation(hashes)
    apart = np.abs(bits[:, None] - np.unpackbits(others, axis=1).astype(int)).sum(-1) if count < 100 else None
    if apart is not None:
        pairs = list(zip(*(values.tolist() for values in close_pairs(hashes, 5, usable, others)), strict=True))
        kept = [(i, j) for i in range(count) for j in range(i + 1, count) if usable[i] and usable[j]]
        assert sorted(pairs) == [(i, j, int(apart[i, j])) for i, j in kept if apart[i, j] <= 5]


def test_copies_are_found_and_told_apart(tmp_path: Path) -> None:
    first, second = textured(1), textured(2)
    save(tmp_path / "a.jpg", first, quality=92)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    save(tmp_path / "c.jpg", first, quality=50)
    save(tmp_path / "d.png", cv2.resize(first, (128, 96), interpolation=cv2.INTER_AREA))
    save(tmp_path / "e.jpg", second)
    save(tmp_path / "black.png", np.zeros((20, 20, 3), np.uint8))
    save(tmp_path / "dark.png", np.full((20, 20, 3), 3, np.uint8))
    (tmp_path / "text.jpg").write_text("no")
    prints = fingerprints({path.stem: path for path in sorted(tmp_path.iterdir())})
    assert [name for name, _ in prints.unreadable] == ["text"]
    pairs = duplicate_pairs(prints)
    found = {(a, b): kind for a, b, kind, _ in pairs.itertuples(index=False)}
    near = {("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")}
    # Two pictures without contrast have nothing to be alike in.
    assert found == {("a", "b"): "exact"} | dict.fromkeys(near, "near")
    assert duplicate_groups(pairs) == [["a", "b", "c", "d"]]


TURNED = {
    "mirrored": lambda rgb: rgb[:, ::-1],
    "upside down": lambda rgb: rgb[::-1],
    "a quarter turn": lambda rgb: np.rot90(rgb),
    "half a turn": lambda rgb: np.rot90(rgb, 2),
    "three quarters": lambda rgb: np.rot90(rgb, 3),
    "transposed": lambda rgb: np.swapaxes(rgb, 0, 1),
    "along the other diagonal": lambda rgb: np.swapaxes(np.rot90(rgb, 2), 0, 1),
}


@pytest.mark.parametrize("how", TURNED)
def test_a_copy_that_was_turned_or_mirrored_is_found(tmp_path: Path, how: str) -> None:
    save(tmp_path / "a.jpg", textured(1), quality=92)
    save(tmp_path / "b.jpg", np.ascontiguousarray(TURNED[how](textured(1))), quality=70)
    save(tmp_path / "c.jpg", textured(2))
    pairs = duplicate_pairs(fingerprints({path.stem: path for path in sorted(tmp_path.iterdir())}))
    assert pairs[["image_1", "image_2", "kind"]].to_numpy().tolist() == [["a", "b", "turned"]]
    assert 0 <= pairs["distance"][0] <= 24


def test_a_crowd_of_equal_images_makes_as_many_pairs_as_images() -> None:
    rng, count = np.random.default_rng(3), 6000
    one, other, odd = rng.integers(0, 256, (3, 32), dtype=np.uint8)
    near = one.copy()
    near[0] ^= 0b101  # two bits
    hashes = np.stack([*[one] * count, near, *[other] * 3, odd])
    content = ["s"] * (count // 2) + [f"s{place}" for place in range(count // 2)] + ["n", "o", "o", "p", "q"]
    names = tuple(f"i{place}" for place in range(len(hashes)))
    turned = rng.integers(0, 256, (len(hashes), TURNS, 32), dtype=np.uint8)
    pairs = duplicate_pairs(Fingerprints(names, tuple(content), hashes, turned, np.zeros(len(names), bool), ()))
    kinds = pairs["kind"].value_counts().to_dict()
    # Half of them one file; the others its near copies, and one at two bits; of three alike two are one file.
    assert kinds == {"exact": count // 2 - 1 + 1, "near": count // 2 + 1 + 2}
    assert sorted(map(len, duplicate_groups(pairs))) == [3, count + 1]
    equal = same_content(names[:count], dict(zip(names, content, strict=True)))
    assert len(equal) == count // 2 - 1 and set(equal["image_1"]) == {"i0"}


def test_groups_chain() -> None:
    pairs = pd.DataFrame(
        [("a", "b", "near", 3), ("c", "d", "near", 1), ("b", "e", "exact", 0)],
        columns=["image_1", "image_2", "kind", "distance"],
    )
    assert sorted(map(sorted, duplicate_groups(pairs))) == [["a", "b", "e"], ["c", "d"]]


def test_listed_pairs_need_both_images() -> None:
    pairs = listed_pairs([("a", "b"), ("a", "x"), ("b", "b")], ["a", "b"])
    assert pairs[["image_1", "image_2", "kind"]].to_numpy().tolist() == [["a", "b", "listed"]]
    assert len(listed_pairs([], ["a"])) == 0


def test_planted_copies_of_the_phantoms_are_the_ones_that_are_found(phantoms: dict[str, PhantomDermoscopy]) -> None:
    for drawn in phantoms.values():
        truth = pd.read_csv(drawn.truth).dropna(subset=["copy_of"])
        records, _ = drawn.read()
        pairs = duplicate_pairs(fingerprints(dict(zip(records["image_id"], records["path"], strict=True))))
        found = {(frozenset((a, b)), kind) for a, b, kind, _ in pairs.itertuples(index=False)}
        planted = {
            (frozenset((a, b)), kind)
            for a, b, kind in zip(truth["image_id"], truth["copy_of"], truth["copy"], strict=True)
        }
        assert found == planted
        assert len(planted) >= 2


def test_settings_are_checked() -> None:
    for wrong in ({"hash_side": 1}, {"max_distance": -1}, {"max_distance": 128}, {"threads": 0}):
        with pytest.raises(InputError):
            DuplicateSettings(**wrong)


def test_near_duplicates_among_real_images_show_one_lesion(real_data: Path) -> None:
    table = pd.read_csv(real_data / "isic2018" / "HAM10000_metadata.csv").set_index("image_id")["lesion_id"]
    images = sorted(table.index)[:2500]
    files = {image: real_data / "isic2018" / "train_200x150" / f"{image}.jpg" for image in images}
    pairs = duplicate_pairs(fingerprints(files))
    same = table[pairs["image_1"]].to_numpy() == table[pairs["image_2"]].to_numpy()
    assert len(pairs) >= 3
    assert same.mean() > 0.9
