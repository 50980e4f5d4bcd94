"""`similar`: the nearest images of a folder, by the tiny run's teacher."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from melano_tf.errors import InputError
from melano_tf.evaluation.retrieval import nearest
from tests.papers.tiny import TinyRun


@pytest.fixture
def gallery(tiny_similarity: TinyRun, tmp_path: Path) -> Path:
    """Eight of the run's phantom images, and one file that is none."""
    [images] = (tiny_similarity.folder / "phantoms").rglob("images")
    folder = tmp_path / "gallery"
    folder.mkdir()
    for path in sorted(images.iterdir())[:8]:
        shutil.copy(path, folder)
    (folder / "text.jpg").write_text("no image")
    return folder


def arguments(run: TinyRun, image: Path, gallery: Path, out: Path) -> tuple[str, ...]:
    model = str(run.folder / "models" / "teacher.keras")
    return ("similar", "--model", model, "--input", str(image), "--gallery", str(gallery), "--out", str(out))


def test_the_nearest_come_first_and_a_copy_is_nearest(tiny_similarity, gallery, tmp_path, inside):
    asked = tmp_path / "asked.jpg"
    shutil.copy(sorted(gallery.iterdir())[3], asked)
    (gallery / "more").mkdir()
    (gallery / "scan.tif").write_text("not looked at")
    done = inside(*arguments(tiny_similarity, asked, gallery, tmp_path / "out"), "--count", "3")
    assert done.code == 0, done.errors
    rows = pd.read_csv(tmp_path / "out" / "similar.csv")
    ranked = rows[rows["rank"].notna()]
    assert len(rows) == 9 and list(ranked["rank"]) == list(range(1, 9))
    assert ranked["distance"].is_monotonic_increasing and ranked["distance"].between(0, 2).all()
    assert Path(ranked["image"].iloc[0]).name == sorted(gallery.iterdir())[3].name
    assert ranked["distance"].iloc[0] == pytest.approx(0, abs=1e-6)
    assert "passed over 1 file (.tif) and 1 folder; its own .jpg, .jpeg and .png files are compared" in done.shown
    assert rows["unreadable"].notna().sum() == 1 and "1 of 9 images could not be used" in done.shown
    picture = cv2.imread(str(tmp_path / "out" / "similar.png"))
    assert min(picture.shape[:2]) > 150 and picture.std() > 15
    assert "not a medical device" in done.shown


def test_an_image_of_the_gallery_itself_is_left_out(tiny_similarity, gallery, tmp_path, inside):
    image = sorted(gallery.iterdir())[0]
    done = inside(*arguments(tiny_similarity, image, gallery, tmp_path / "out"))
    assert done.code == 0, done.errors
    assert image.name not in {Path(name).name for name in pd.read_csv(tmp_path / "out" / "similar.csv")["image"]}


def test_it_gives_the_runs_own_embedding(tiny_similarity, gallery, tmp_path, inside):
    """Distances by the command equal those of the vectors that the run stored."""
    clusters = pd.read_csv(tiny_similarity.folder / "clusters" / "clusters.csv")
    stored = np.load(tiny_similarity.folder / "clusters" / "embedding.npy")
    vectors = dict(zip(clusters["image_id"], stored, strict=True))
    (gallery / "text.jpg").unlink()
    image = sorted(gallery.iterdir())[0]
    done = inside(*arguments(tiny_similarity, image, gallery, tmp_path / "out"))
    assert done.code == 0, done.errors
    rows = pd.read_csv(tmp_path / "out" / "similar.csv")
    expected = [1 - vectors[image.stem] @ vectors[Path(name).stem] for name in rows["image"]]
    np.testing.assert_allclose(rows["distance"], expected, atol=1e-5)


def test_what_cannot_be_asked_is_one_line(tiny_similarity, gallery, tmp_path, inside):
    black, student = tmp_path / "black.png", tiny_similarity.folder / "models" / "baseline-lesion.keras"
    cv2.imwrite(str(black), np.zeros((60, 80, 3), np.uint8))
    image = sorted(gallery.iterdir())[0]
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(black, alone)
    usual = arguments(tiny_similarity, image, gallery, tmp_path / "out")
    for given, words in (
        (arguments(tiny_similarity, black, gallery, tmp_path / "out"), "black.png: of one colour"),
        (arguments(tiny_similarity, image, alone, tmp_path / "out"), "none of its 1 images can be used"),
        (arguments(tiny_similarity, alone / "black.png", alone, tmp_path / "out"), "no other image than black.png"),
        (arguments(tiny_similarity, gallery / "text.jpg", gallery, tmp_path / "out"), "neither a JPEG nor a PNG"),
        (arguments(tiny_similarity, tmp_path / "none.jpg", gallery, tmp_path / "out"), "no such image file"),
        (arguments(tiny_similarity, image, tmp_path / "nowhere", tmp_path / "out"), "no such folder"),
        ((*usual, "--count", "0"), "--count 0: at least 1"),
        ((*usual, "--model", str(student)), "a model of kind 'similarity'"),
    ):
        done = inside(*given)
        assert done.code == 2 and words in done.errors and "Traceback" not in done.errors, done.errors
    assert not (tmp_path / "out").exists()


def test_distances_by_hand() -> None:
    vectors = np.array([[0, 1], [1, 0], [-1, 0], [1, 0]], np.float32)
    order, distances = nearest(np.array([1, 0], np.float32), vectors)
    assert order.tolist() == [1, 3, 0, 2]  # equal distances keep their order
    np.testing.assert_allclose(distances, [0, 0, 1, 2], atol=1e-7)


def test_errors_are_of_the_kind_that_exits_with_2() -> None:
    from melano_tf.commands.similar import SimilarSettings, similar

    with pytest.raises(InputError, match="no such model file"):
        similar(SimilarSettings(Path("none.keras"), Path("a.jpg"), Path()), print)
