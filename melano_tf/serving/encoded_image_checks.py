"""Encoded images judged inside the graph, before anything is decoded: format, size in pixels, end marker.

A server decodes whatever it is sent. A file of a few kilobytes may claim 65,000 x 65,000 pixels, and one bad image
would otherwise fail with a message that does not say which. So each image's header is read here as
`dermoscopy.image_files.read_header` reads it, and what cannot be used is refused with its index and the reason. What
is damaged further inside shows only in decoding, which refuses it without an index.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from melano_tf.dermoscopy.jpeg_scans import ENDS_EARLY, MAX_SCANS
from melano_tf.metadata_fields import NOT_SENT, UNKNOWN, MetadataField, NumberField
from melano_tf.serving.jpeg_graph import ENDLESS, SEGMENTS, TOO_MANY, at, walk_scans

PNG = b"\x89PNG\r\n\x1a\n"
UNKNOWN_WORDS = ("", UNKNOWN)

GOOD, EMPTY, LARGE_FILE, FORMAT, HEADER, SIZE, PIXELS, CUT, SCANS, MISSING, EARLY = range(11)
REASONS = (
    "",
    "is empty",
    "is a file larger than the limit of {max_bytes} bytes",
    "is neither a JPEG nor a PNG file",
    "has a damaged or cut-off header",
    "says in its header that it has no pixels",
    "has more pixels than the limit of {max_pixels}",
    "is cut off: its end marker is missing",
    f"has more than {MAX_SCANS} scans",
    "is cut off: scans of its picture are missing, though an end marker follows",
    f"is {ENDS_EARLY}",
)


class Judged(NamedTuple):
    """What a file says of itself, int32 scalars and a bool.

    Attributes:
        code: an index into REASONS, 0 where the file may be decoded.
        height, width: in px.
        kind: 1 for a JPEG, 2 for a PNG, 3 for a PNG of 16-bit greys.
        end: place of a JPEG's end marker.
        doubtful: see `dermoscopy.jpeg_scans.Scans`.
    """

    code: Any
    height: Any
    width: Any
    kind: Any
    end: Any
    doubtful: Any


def judge_image(content: Any, max_pixels: int, max_bytes: int) -> Judged:
    """What a file says of itself, without decoding it.

    Args:
        content: scalar string, the file's bytes.
        max_pixels: width x height above this is refused.
        max_bytes: longer files are refused.
    """
    length = tf.strings.length(content)
    # A file that is too long is not even looked at.
    data = tf.cond(length <= max_bytes, lambda: tf.io.decode_raw(content, tf.uint8), lambda: tf.zeros([0], tf.uint8))
    jpeg = tf.equal(tf.strings.substr(content, 0, tf.minimum(length, 2)), b"\xff\xd8")
    png = tf.equal(tf.strings.substr(content, 0, tf.minimum(length, len(PNG))), PNG)

    def nothing() -> Judged:
        code, zero = tf.constant(FORMAT), tf.constant(0)
        return Judged(code, zero, zero, zero, zero, tf.constant(False))

    code, height, width, kind, end, doubtful = tf.cond(
        (length > max_bytes) | (length == 0),
        nothing,
        lambda: tf.cond(jpeg, lambda: _jpeg(data), lambda: tf.cond(png, lambda: _png(data), nothing)),
    )
    size = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    fine = tf.equal(code, GOOD)
    code = tf.where(fine & ((height < 1) | (width < 1)), SIZE, code)
    # A size beyond the limit comes before a missing end: it is what a bomb is made of.
    late = tf.reduce_any(tf.equal(code, [CUT, SCANS, MISSING]))
    code = tf.where((fine | late) & (size > max_pixels), PIXELS, code)
    code = tf.where(length > max_bytes, LARGE_FILE, tf.where(length == 0, EMPTY, code))
    return Judged(code, height, width, kind, end, doubtful)


def _jpeg(data: Any) -> Judged:
    """Walk the segments to the frame header; then from scan to scan to the end marker behind it."""
    length = tf.size(data)

    def going(place: Any, state: Any, height: Any, width: Any) -> Any:
        return tf.equal(state, -1)

    def step(place: Any, state: Any, height: Any, width: Any) -> Any:
        marker, size = at(data, place + 1), at(data, place + 2) * 256 + at(data, place + 3)
        fill = tf.equal(marker, 0xFF)
        alone = tf.equal(marker, 0x01) | ((marker >= 0xD0) & (marker <= 0xD8))
        frame = (marker >= 0xC0) & (marker <= 0xCF) & (marker != 0xC4) & (marker != 0xC8) & (marker != 0xCC)
        broken = (place + 4 > length) | (at(data, place) != 0xFF)
        ended = tf.equal(marker, 0xD9) | tf.equal(marker, 0xDA) | (size < 2)
        broken |= ~fill & ~alone & ~frame & ended
        broken |= ~fill & ~alone & frame & (place + 9 > length)
        found = frame & ~fill & ~alone & ~broken
        height = tf.where(found, at(data, place + 5) * 256 + at(data, place + 6), height)
        width = tf.where(found, at(data, place + 7) * 256 + at(data, place + 8), width)
        state = tf.where(broken, HEADER, tf.where(found, GOOD, -1))
        return place + tf.where(found, 0, tf.where(fill, 1, tf.where(alone, 2, 2 + size))), state, height, width

    start = (tf.constant(2), tf.constant(-1), tf.constant(0), tf.constant(0))
    place, state, height, width = tf.while_loop(going, step, start, maximum_iterations=SEGMENTS)
    state = tf.where(tf.equal(state, -1), HEADER, state)
    unknown = lambda: (tf.constant(0), tf.constant(False), tf.constant(0), tf.constant(False))  # noqa: E731
    scans, missing, end, doubtful = tf.cond(tf.equal(state, GOOD), lambda: walk_scans(data, place), unknown)
    state = tf.where(tf.equal(scans, TOO_MANY), SCANS, tf.where(tf.equal(scans, ENDLESS), CUT, state))
    state = tf.where(missing, MISSING, state)
    return Judged(state, height, width, tf.constant(1), end, doubtful)


def _png(data: Any) -> Judged:
    """The header chunk stands at a fixed place; the end chunk is looked for behind it."""
    head = [at(data, tf.constant(place)) for place in range(8, 26)]
    sound = tf.reduce_all(tf.equal(tf.stack(head[:8]), [0, 0, 0, 13, *b"IHDR"])) & (tf.size(data) >= 33)
    number = lambda b: tf.where(b[0] > 127, -1, ((b[0] * 256 + b[1]) * 256 + b[2]) * 256 + b[3])  # noqa: E731
    width, height = number(head[8:12]), number(head[12:16])
    rest = data[tf.minimum(33, tf.size(data)) :]
    windows = [rest[k : tf.maximum(tf.size(rest) - 3 + k, 0)] for k in range(4)]
    ends = tf.reduce_any(
        tf.reduce_all(tf.stack([tf.equal(w, byte) for w, byte in zip(windows, b"IEND", strict=True)]), axis=0)
    )
    state = tf.where(sound, tf.where(ends, GOOD, CUT), HEADER)
    grey16 = tf.equal(head[16], 16) & tf.equal(head[17], 0)
    return Judged(state, height, width, tf.where(grey16, 3, 2), tf.constant(0), tf.constant(False))


def refuse_images(codes: Any, max_pixels: int, max_bytes: int) -> tf.Operation:
    """An operation that fails, naming each bad image and why, unless all codes are 0."""
    reasons = tf.constant([r.format(max_pixels=f"{max_pixels:,}", max_bytes=f"{max_bytes:,}") for r in REASONS])
    bad = tf.where(tf.not_equal(codes, GOOD))[:, 0]
    words = tf.strings.join(["image ", tf.strings.as_string(bad), " ", tf.gather(reasons, tf.gather(codes, bad))])
    return _refuse(tf.equal(tf.size(bad), 0), words)


def refuse_metadata(told: Mapping[str, Any], fields: Sequence[MetadataField]) -> tf.Operation:
    """An operation that fails, naming each row and value, where metadata are out of range.

    Args:
        told: (B,) by field: numbers float, NaN and -1 are unknown; words string, "" and "unknown" are.
        fields: with the words that the model knows.
    """
    faults = tf.concat([_faults(told[one.name], one) for one in fields], axis=0)
    return _refuse(tf.equal(tf.size(faults), 0), faults)


def _faults(values: Any, one: MetadataField) -> Any:
    """A line for each value that is out of range, string (n,)."""
    if isinstance(one, NumberField):
        inside = (values >= 0) & (values <= one.highest)
        rows = tf.where(~(tf.math.is_nan(values) | tf.equal(values, NOT_SENT) | inside))[:, 0]
        given = tf.strings.as_string(tf.gather(values, rows), shortest=True)
        limits = f"0 to {one.highest:g} {one.unit}; {NOT_SENT:g} where it is not known"
        return tf.strings.join([_row(rows), f": {one.name} ", given, f" lies outside of {limits}"])
    allowed = tf.constant([*dict.fromkeys([*one.words, *UNKNOWN_WORDS])])
    rows = tf.where(~tf.reduce_any(tf.equal(values[:, None], allowed), axis=1))[:, 0]
    given = tf.strings.substr(tf.gather(values, rows), 0, 40)
    expected = ", ".join([*one.known_words, UNKNOWN])
    return tf.strings.join([_row(rows), f": {one.name} '", given, f"'; expected {expected}"])


def _row(rows: Any) -> Any:
    return tf.strings.join(["metadata ", tf.strings.as_string(rows)])


def refuse_count(count: Any, most: int, what: str) -> tf.Operation:
    """An operation that fails where a request holds more than `most` of something."""
    words = tf.strings.join([tf.strings.as_string(count), f" {what} in one request; at most {most}"])
    return _refuse(count <= most, words[None])


def _refuse(fine: Any, words: Any) -> tf.Operation:
    return tf.debugging.Assert(fine, [tf.strings.reduce_join(words, separator="; ")], summarize=1)
