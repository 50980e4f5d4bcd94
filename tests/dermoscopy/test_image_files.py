"""Image files: headers judged before decoding, and every kind of picture brought to RGB."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from melano_tf.dermoscopy.image_files import (
    HIGHEST_MAX_PIXELS,
    ImageSettings,
    UnreadableImageError,
    find_images,
    images_at,
    match_images,
    passed_over,
    read_header,
    read_image,
)
from melano_tf.errors import InputError

sys.path.insert(0, str(Path(__file__).parent))
from isic_files import photo, png_claiming, save


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_header_agrees_with_the_picture(tmp_path: Path, suffix: str) -> None:
    header = read_header(save(tmp_path / f"a.{suffix}"))
    assert (header.width, header.height, header.channels, header.bits, header.orientation) == (80, 60, 3, 8, 1)


def test_a_file_is_what_it_holds_and_not_what_it_is_called(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png")
    path.rename(tmp_path / "a.jpg")
    assert read_header(tmp_path / "a.jpg").kind == "png"
    assert np.array_equal(read_image(tmp_path / "a.jpg"), photo())


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_is_reported_and_not_applied(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = save(tmp_path / f"a.{suffix}", exif=exif)
    assert read_header(path).orientation == 6
    assert read_image(path).shape == (60, 80, 3)


def test_progressive_jpeg_and_comments_do_not_hide_the_frame(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", progressive=True, comment=b"\xff\xc0 not a frame", quality=80)
    assert (read_header(path).width, read_header(path).height) == (80, 60)


def test_grey_cmyk_and_16_bit_pictures_become_the_rgb_they_show(tmp_path: Path) -> None:
    rgb = photo()
    grey = np.asarray(Image.fromarray(rgb).convert("L"))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, -1))
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert read_header(tmp_path / "cmyk.jpg").channels == 4
    assert np.abs(read_image(tmp_path / "cmyk.jpg").astype(int) - rgb).mean() < 4
    deep = (grey.astype(np.uint16) << 8) + 77
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert read_header(tmp_path / "deep.png").bits == 16
    assert np.abs(read_image(tmp_path / "deep.png")[..., 0].astype(int) - grey).max() <= 1
    Image.fromarray(rgb).convert("RGBA").save(tmp_path / "alpha.png")
    assert np.array_equal(read_image(tmp_path / "alpha.png"), rgb)
    Image.fromarray(rgb).quantize(64).save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").shape == rgb.shape


def test_a_picture_of_16_bits_and_three_channels(tmp_path: Path) -> None:
    import cv2

    rgb = photo()
    cv2.imwrite(str(tmp_path / "deep.png"), (rgb[..., ::-1].astype(np.uint16) * 257))
    assert read_header(tmp_path / "deep.png").bits == 16
    assert np.abs(read_image(tmp_path / "deep.png").astype(int) - rgb).max() <= 1


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    bomb = png_claiming(tmp_path / "bomb.png", 20_000, 20_000)
    assert bomb.stat().st_size < 1000
    for read in (read_header, read_image):
        with pytest.raises(UnreadableImageError, match="20000 x 20000 px are more than the limit of 50,000,000"):
            read(bomb)
    assert read_header(bomb, 400_000_000).width == 20_000
    with pytest.raises(UnreadableImageError, match="limit of 4,799"):
        read_image(save(tmp_path / "small.png"), 80 * 60 - 1)
    assert read_image(tmp_path / "small.png", 80 * 60).shape == (60, 80, 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"this is text", "neither a JPEG nor a PNG"),
        (b"", "empty"),
        (b"\xff\xd8\xff\xe0", "cut off within its header"),
        (b"\xff\xd8\xff\xd9", "damaged|cut off"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "cut off within its header"),
        (b"\xff\xd8nonsense", "damaged"),
        (b"BM" + bytes(60), "neither a JPEG nor a PNG"),
    ],
)
def test_files_that_are_no_pictures_say_why(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=words):
        read_header(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_picture_that_is_cut_off_is_noticed_on_decoding(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", photo(size=(200, 300)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert read_header(path).width == 300
    with pytest.raises(UnreadableImageError, match=r"decoded|damaged"):
        read_image(path)


def test_no_prefix_of_a_picture_crashes(tmp_path: Path) -> None:
    for suffix in ("jpg", "png"):
        content = save(tmp_path / f"whole.{suffix}").read_bytes()
        path = tmp_path / f"part.{suffix}"
        for length in range(0, len(content) - 20, 37):
            path.write_bytes(content[:length])
            with pytest.raises(UnreadableImageError):
                read_image(path)


def test_a_draft_is_smaller_but_not_too_small(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", photo(size=(600, 800)))
    small = read_image(path, shrink_to=128)
    assert 128 <= min(small.shape[:2]) < 300


def test_images_are_found_by_name_in_several_folders(tmp_path: Path) -> None:
    for folder, name in (("one", "ISIC_1.jpg"), ("one", "notes.txt"), ("two", "ISIC_2.PNG"), ("two", "ISIC_3.jpeg")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).touch()
    assert set(find_images([tmp_path / "one", tmp_path / "two"])) == {"ISIC_1", "ISIC_2", "ISIC_3"}


def test_faults_of_folders_are_said_together(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "parent" / "part_1").mkdir(parents=True)
    save(tmp_path / "parent" / "part_1" / "ISIC_1.jpg")
    (tmp_path / "twice").mkdir()
    save(tmp_path / "twice" / "ISIC_1.jpg")
    save(tmp_path / "twice" / "ISIC_1.png")
    with pytest.raises(InputError) as error:
        find_images([tmp_path / name for name in ("none", "empty", "parent", "twice")])
    text = str(error.value)
    assert "none: no such folder" in text
    assert "empty: no .jpg, .jpeg or .png file in it" in text
    assert "part_1 would do" in text
    assert "ISIC_1: two files" in text
    assert len(text.splitlines()) == 5


def test_a_folder_of_folders_names_those_with_images(tmp_path: Path) -> None:
    for name in ("part_1", "notes"):
        (tmp_path / name).mkdir()
    save(tmp_path / "part_1" / "a.jpg")
    with pytest.raises(InputError, match=r"no \.jpg, \.jpeg or \.png file in it; its folder part_1 would do"):
        images_at(tmp_path)


def test_what_is_left_out_of_a_folder_has_its_words(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    (tmp_path / ".notes").touch()
    assert passed_over(tmp_path) == ""
    (tmp_path / "part_1").mkdir()
    (tmp_path / "part_1" / "b.bmp").touch()
    assert passed_over(tmp_path) == "1 folder"
    for name in ("README", "b.bmp", "c.BMP", "d.tif", "e.webp", "f.gif", "g.heic", "h.txt", "loop"):
        (tmp_path / name).touch()
    (tmp_path / "loop").unlink()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert passed_over(tmp_path) == "9 files (.bmp, .gif, .heic, .tif, .txt, …) and 1 folder"
    (tmp_path / "part_2").mkdir()
    known = (tmp_path / "part_1", tmp_path / "part_2" / ".." / "h.txt", tmp_path / "part_2" / "README")
    assert passed_over(tmp_path, known) == "8 files (.bmp, .gif, .heic, .tif, .webp, …) and 1 folder"
    assert images_at(tmp_path) == [tmp_path / "a.jpg"]


def test_the_ending_downsampled_may_be_missing_or_there() -> None:
    files = {"ISIC_1": Path("a"), "ISIC_2_downsampled": Path("b"), "ISIC_3": Path("c")}
    ids = ["ISIC_1_downsampled", "ISIC_2", "ISIC_3", "ISIC_3_downsampled", "ISIC_4"]
    # ISIC_3 is an image of its own here, so its file is nobody else's.
    assert list(match_images(ids, files)) == [Path("a"), Path("b"), Path("c"), None, None]


def test_settings_are_checked() -> None:
    for wrong in ({"check": "all"}, {"max_pixels": 0}, {"max_pixels": HIGHEST_MAX_PIXELS + 1}, {"threads": 0}):
        with pytest.raises(InputError):
            ImageSettings(**wrong)
