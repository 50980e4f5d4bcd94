"""Pictures inside a report: data URIs that fit a budget; what was shrunk or left out is counted."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

BUDGET = 12_000_000  # bytes of all pictures of one report, before base64 (a third more)
KEPT = 120_000  # a PNG up to this size stays as it is
# (longest side in pixels, quality of WebP), from the finest on; the first one at which all pictures fit is taken.
GRADES = ((1800, 85), (1200, 78), (800, 70), (500, 60))


@dataclass(frozen=True)
class Source:
    """A picture to be shown: a file, or bytes that were drawn for the report."""

    name: str
    words: str
    content: Path | bytes


@dataclass(frozen=True)
class Picture:
    """A picture as it stands in the report.

    Attributes:
        name: of its file, or what it is.
        words: what it shows.
        uri: "data:image/…;base64,…".
        width, height: in pixels, as shown.
        shrunk: whether it has fewer pixels than its file.
        drawn: whether it was drawn for the report, so that it has no file.
        said: whether its words stand above the section's pictures, for several of them.
    """

    name: str
    words: str
    uri: str
    width: int
    height: int
    shrunk: bool
    drawn: bool
    said: bool = False


@dataclass
class Album:
    """All pictures of a report by name, and what became of those that are not as they were.

    Attributes:
        pictures: by the sources' names.
        bytes: of all of them, before base64.
        shrunk: names of those with fewer pixels than their files.
        left_out: (name, why).
    """

    pictures: dict[str, Picture] = field(default_factory=dict)
    bytes: int = 0
    shrunk: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def album(sources: Sequence[Source], budget: int = BUDGET) -> Album:
    """Encode pictures so that all of them fit a budget; where even the smallest do not, the last ones are left out.

    Args:
        sources: the more important ones first.
        budget: bytes of all of them, before base64.
    """
    result = Album()
    decoded: list[tuple[Source, bytes]] = []
    for source in sources:
        try:
            content = source.content if isinstance(source.content, bytes) else source.content.read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                image.load()
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError):
            result.left_out.append((source.name, "cannot be read as a picture"))
            continue
        decoded.append((source, content))
    for number, grade in enumerate(GRADES):
        encoded = [encode(content, *grade) for _, content in decoded]
        if sum(len(data) for data, *_ in encoded) <= budget or number == len(GRADES) - 1:
            break
    for (source, _), (data, kind, size, shrunk) in zip(decoded, encoded, strict=True):
        if result.bytes + len(data) > budget:
            result.left_out.append((source.name, "does not fit into the report's budget for pictures"))
            continue
        uri = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
        result.pictures[source.name] = Picture(
            source.name, source.words, uri, *size, shrunk, isinstance(source.content, bytes)
        )
        result.bytes += len(data)
        result.shrunk += [source.name] * shrunk
    return result


def encode(content: bytes, longest: int, quality: int) -> tuple[bytes, str, tuple[int, int], bool]:
    """One picture's bytes, format, size and whether it was shrunk: as it is where small, else WebP.

    Args:
        content: of the picture's file.
        longest: side in pixels that it may have.
        quality: of WebP, 0 to 100.
    """
    with Image.open(io.BytesIO(content)) as image:
        fits = max(image.size) <= longest
        if image.format == "PNG" and len(content) <= KEPT and fits:
            return content, "png", image.size, False
        flat = Image.new("RGB", image.size, "white")
        whole = image.convert("RGBA")
        flat.paste(whole, mask=whole.getchannel("A"))
    if not fits:
        flat.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    flat.save(buffer, "WEBP", quality=quality, method=4)
    data = buffer.getvalue()
    return data, "webp", flat.size, not fits
