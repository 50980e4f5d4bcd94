"""Single images: decoded and resized once into a cache on disk, from which any image can be read alone.

The cache is a folder of shards, each a `.npy` of a few hundred images: what a batch needs is read, and no more. A
shard's name is a digest of what is in it (the settings and each file's checksum), so that a changed image or setting
makes new shards, and two runs can share one folder. Beside it stands what was found of its images, and a checksum of
each, with which it is compared whenever it is read (`npy_rows`).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from melano_tf.dermoscopy.colour_constancy import normalise
from melano_tf.dermoscopy.image_files import UnreadableImageError, pillow_pixels, read_header, read_image
from melano_tf.dermoscopy.jpeg_scans import check_whole, read_scans
from melano_tf.errors import RunError
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.pipelines.npy_rows import open_shards, shard_facts, write_shard
from melano_tf.pipelines.processes import Engine, WorkerDied, in_this_process
from melano_tf.runs import journal
from melano_tf.runs.settings_digest import digest

VERSION = 1  # of what is stored: raised whenever the same file and settings give other pixels
SHARD = 256  # images
SHRINKS = (8, 4, 2)  # a JPEG can be decoded at these fractions of its size


@dataclass(frozen=True)
class StoredImage:
    """One image as the cache holds it: pixels uint8 (px, px, 3) RGB, and width / height of the file's picture."""

    pixels: np.ndarray
    aspect: float


def decode_image(path: Path | str, settings: ImageCacheSettings) -> StoredImage:
    """An image file, brought to the cache's size; training and serving both see images through this function.

    A JPEG is decoded by TensorFlow's accurate integer transform, whose pixels are the same on every machine, a large
    one at a half, a quarter or an eighth of its size (never below twice the stored size); a PNG by
    `dermoscopy.image_files.read_image`. The picture is squeezed to a square, as the paper resizes it, or
    cropped to the square at its centre; EXIF orientation is ignored. Colour constancy, where it is set, is applied to
    the resized pixels.

    Raises:
        UnreadableImageError: not a JPEG or PNG, too large, cut off or damaged; the message is the reason.
    """
    header = read_header(path, settings.max_pixels)
    if header.kind == "jpeg":
        shorter = min(header.width, header.height)
        ratio = next((n for n in SHRINKS if shorter // n >= 2 * settings.stored_px), 1)
        try:
            content = Path(path).read_bytes()
            read_scans(content)
            decoded = decode_jpeg(content, ratio)
            check_whole(content, decoded.numpy(), lambda other: pillow_pixels(other, shorter // ratio))
        except OSError as error:
            raise UnreadableImageError(f"cannot be read ({error.strerror or error})") from None
        except (tf.errors.InvalidArgumentError, ValueError, SyntaxError):
            raise UnreadableImageError("its pixels cannot be decoded (damaged or cut off)") from None
    else:
        decoded = tf.convert_to_tensor(read_image(path, settings.max_pixels))
    aspect = header.width / header.height
    if settings.crop == "centre":
        decoded, aspect = _centre_square(decoded), 1.0
    pixels = _resized(decoded, settings.stored_px)
    return StoredImage(pixels if settings.colour is None else normalise(pixels, settings.colour), aspect)


def decode_jpeg(content: Any, ratio: int = 1) -> Any:
    """uint8 (h, w, 3), of a file's bytes at a fraction of its size; nothing is made up where data are missing."""
    return tf.io.decode_jpeg(
        content,
        channels=3,
        ratio=ratio,
        dct_method="INTEGER_ACCURATE",
        try_recover_truncated=False,
        acceptable_fraction=1.0,
    )


def _centre_square(image: Any) -> Any:
    """The largest square at the centre of (H, W, 3); where the rest is odd, its smaller half lies left or above."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _resized(image: Any, size: int) -> np.ndarray:
    """uint8 (size, size, 3), by area where the picture shrinks, bilinearly where it grows."""
    height, width = image.shape[:2]
    smaller = (min(height, size), min(width, size))
    if smaller != (height, width):
        image = tf.image.resize(image[None], smaller, method="area")[0]
    if smaller != (size, size):
        image = tf.image.resize(image[None], (size, size), method="bilinear")[0]
    return np.asarray(tf.cast(tf.clip_by_value(tf.round(tf.cast(image, tf.float32)), 0, 255), tf.uint8))


class ImageCache:
    """Decoded images on disk, in the order in which they were asked for.

    Attributes:
        image_ids: names of the images, (n,).
        aspects: width / height of each file's picture, float32 (n,); 0 for an unreadable one.
        unreadable: {image: why}; their pixels are not in the cache, and reading them is an error.
        stored_px: side of the stored images.
    """

    def __init__(
        self, image_ids: Sequence[str], shards: Sequence[Path], facts: Sequence[Mapping[str, Any]], stored_px: int
    ) -> None:
        self.image_ids = tuple(image_ids)
        self.aspects = np.array([aspect for fact in facts for aspect in fact["aspects"]], np.float32)
        self.unreadable: dict[str, str] = {name: why for fact in facts for name, why in fact["unreadable"].items()}
        self.stored_px = stored_px
        self._places = {name: place for place, name in enumerate(self.image_ids)}
        self._shards = list(shards)
        self._open = open_shards(self._shards, facts)

    def rows(self, image_ids: Sequence[str]) -> np.ndarray:
        """Where images stand in the cache, int64 (n,).

        Raises:
            KeyError: an image is not in it, or could not be read.
        """
        if lost := [name for name in image_ids if name not in self._places or name in self.unreadable]:
            raise KeyError(f"{len(lost)} images are not in the cache, for example {lost[0]}")
        return np.array([self._places[name] for name in image_ids], np.int64)

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """Stored images of rows, uint8 (n, px, px, 3).

        Raises:
            InputError: one is not as it was written; so also `image`.
        """
        result = np.empty((len(rows), self.stored_px, self.stored_px, 3), np.uint8)
        for place, row in enumerate(rows):
            self._read(row, result[place])
        return result

    def image(self, row: int) -> np.ndarray:
        """A stored image, uint8 (px, px, 3)."""
        result = np.empty((self.stored_px, self.stored_px, 3), np.uint8)
        self._read(row, result)
        return result

    def _read(self, row: int, into: np.ndarray) -> None:
        shard, within = divmod(int(row), SHARD)
        self._open(shard).read(within, into)

    def identity(self, rows: np.ndarray) -> list[tuple[str, int]]:
        """What rows hold, for the key of what is made of them: (name of the shard, place in it), of each."""
        places = (divmod(int(row), SHARD) for row in rows)
        return [(self._shards[shard].stem, within) for shard, within in places]


def cache_images(
    files: Mapping[str, Path | str],
    checksums: Mapping[str, str],
    settings: ImageCacheSettings,
    folder: Path,
    threads: int = 2,
    progress: Callable[[int], object] = lambda images: None,
    engine: Engine | None = None,
) -> ImageCache:
    """Decode and resize every image that is not in the cache yet; unfinished work is taken up at its last shard.

    A shard that is plainly not as it was written (`npy_rows.shard_facts`) is made anew.

    Args:
        files: file of each image, by name.
        checksums: of the content of each image, by name; part of the shards' names.
        settings: size and limits.
        folder: of the shards; may be shared by runs.
        threads: images decoded at once; the pixels do not depend on it.
        progress: called with the number of images done with each shard.
        engine: what makes the shards, which must see `folder` and the files under the same paths; None: this process,
            one after the other.

    Raises:
        RunError: an engine's process died twice over one shard.
        OSError, MemoryError: a file could not be read, or not be decoded, for a reason that is not in its bytes and may
            pass; its shard is not written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = list(files)
    parts = [names[start : start + SHARD] for start in range(0, len(names), SHARD)]
    contents = [[[name, checksums[name]] for name in part] for part in parts]
    shards = [folder / f"{digest([VERSION, settings.identity(), content])}.npy" for content in contents]
    known = [shard_facts(path) for path in shards]
    todo = [place for place, facts in enumerate(known) if facts is None]
    progress(len(names) - sum(len(parts[place]) for place in todo))
    engine = engine or in_this_process(threads)
    asked = [(shards[place], {name: files[name] for name in parts[place]}) for place in todo]
    write = functools.partial(_write_shard, settings=settings)
    for index, result in engine.spread(write, list(zip(asked, engine.threads(len(todo)), strict=True))):
        part = parts[todo[index]]
        if isinstance(result, WorkerDied):
            raise RunError(f"decoding the images {part[0]} to {part[-1]} killed its process twice (out of memory?)")
        progress(len(part))
        known[todo[index]] = result
    return ImageCache(names, shards, [facts for facts in known if facts is not None], settings.stored_px)


def _write_shard(
    asked: tuple[tuple[Path, Mapping[str, Path | str]], int], settings: ImageCacheSettings
) -> dict[str, Any]:
    """The pixels, and beside them what was found, which is returned (`npy_rows.shard_facts`).

    Args:
        asked: (the shard's path, the file of each image), threads.
        settings: size and limits.
    """
    (path, files), threads = asked
    if (done := shard_facts(path)) is not None:  # by another run that shares the folder, since this one looked
        return done

    def one(file: Path | str) -> StoredImage | str:
        try:
            return decode_image(file, settings)
        except UnreadableImageError as error:
            # The shard is kept for good: what another try might read must not stand in it as unreadable.
            if (fault := _passing(error, file)) is not None:
                raise fault from None
            return str(error)

    with ThreadPoolExecutor(max(1, threads)) as pool:
        found = dict(zip(files, pool.map(one, files.values()), strict=True))
    pixels = np.zeros((len(found), settings.stored_px, settings.stored_px, 3), np.uint8)
    for place, image in enumerate(found.values()):
        if isinstance(image, StoredImage):
            pixels[place] = image.pixels
    facts = {
        "aspects": [image.aspect if isinstance(image, StoredImage) else 0.0 for image in found.values()],
        "unreadable": {name: image for name, image in found.items() if isinstance(image, str)},
    }
    return write_shard(path, pixels, facts)


def _passing(error: UnreadableImageError, file: Path | str) -> OSError | MemoryError | None:
    """The machine's fault that kept a file from being read (a disk, no memory); None where its bytes are damaged.

    Decoders too raise OSError for damage, but without one of the system's numbers.
    """
    cause = error.__context__
    if isinstance(cause, OSError) and cause.errno:
        return OSError(cause.errno, cause.strerror, str(file))  # a fault of reading does not name the file itself
    return cause if isinstance(cause, MemoryError) else None


def prune_cache(folder: Path, keep: ImageCache) -> None:
    """Remove the shards that a run made in its own cache and `keep` does not use (of other settings, or files)."""
    used = {path.stem for path in keep._shards}
    for path in journal.recorded(folder):
        if path.parent == Path(folder).resolve() and path.stem not in used:
            journal.remove(path)
