"""`dermoscopy.jpeg_scans` inside the graph: the scans of a JPEG counted and read before it is decoded, and its
end looked at afterwards."""

from typing import Any

import tensorflow as tf

from melano_tf.dermoscopy.jpeg_scans import FILLER, GREY, MAX_SCANS, NEAR_GREY, PROGRESSIVE

SEGMENTS = 2_000  # of a JPEG before its frame header, and as many behind it; photographs have some ten
GOING, ENDED, TOO_MANY, ENDLESS = range(4)


def at(data: Any, place: Any) -> Any:
    """The byte at a place as int32; 0 beyond the end."""
    last = tf.maximum(tf.size(data) - 1, 0)
    return tf.where(place <= last, tf.cast(tf.gather(data, tf.clip_by_value(place, 0, last)), tf.int32), 0)


def walk_scans(data: Any, frame: Any) -> tuple[Any, Any, Any, Any]:
    """`dermoscopy.jpeg_scans.read_scans` from the frame header on.

    Args:
        data: uint8 (n,), the file.
        frame: place of its frame header, int32.

    Returns:
        (state: ENDED, TOO_MANY scans or ENDLESS; whether scans are missing; place of the end marker; whether missing
        data need not show in the last pixel).
    """
    progressive = tf.reduce_any(tf.equal(at(data, frame + 1), sorted(PROGRESSIVE)))
    components = at(data, frame + 9)
    numbers = tf.where(tf.range(255) < components, at(data, frame + 10 + 3 * tf.range(255)), -1)
    there = tf.reduce_any(tf.equal(tf.range(256)[:, None], numbers[None]), axis=1)
    markers = _markers(data)

    def step(place: Any, state: Any, count: Any, precision: Any, end: Any) -> tuple[Any, ...]:
        found = tf.gather(markers, tf.searchsorted(markers, place[None])[0])
        marker, body = at(data, found + 1), found + 2
        size = tf.maximum(at(data, body) * 256 + at(data, body + 1), 2)
        scan = tf.equal(marker, 0xDA) & (size >= 6)
        count += tf.cast(scan, tf.int32)
        precision = tf.where(
            scan & _touched(data, body, size, progressive), _low(data, body + size, progressive), precision
        )
        ended = tf.where(tf.equal(marker, 0xD9), ENDED, tf.where(count > MAX_SCANS, TOO_MANY, GOING))
        state = tf.where(found >= tf.size(data), ENDLESS, ended)
        return body + size, state, count, precision, found

    start = (frame, tf.constant(GOING), tf.constant(0), 99 * tf.ones([256, 64], tf.int32), tf.constant(0))
    _, state, count, precision, end = tf.while_loop(
        lambda place, state, *_: tf.equal(state, GOING), step, start, maximum_iterations=SEGMENTS
    )
    missing = tf.equal(state, ENDED) & tf.reduce_any((precision > 0) & there[:, None])
    # Markers may be filled up with 0xFF before them.
    end = tf.while_loop(lambda end: tf.equal(at(data, end - 1), 0xFF), lambda end: (end - 1,), (end,))[0]
    state = tf.where(tf.equal(state, GOING), TOO_MANY, state)
    return state, missing, end, (count > 1) | progressive | (components > 3)


def _markers(data: Any) -> Any:
    """Places of what may be a marker, int32, and behind them the file's length."""
    code = data[1:]
    inside = tf.equal(code, 0) | tf.equal(code, 1) | tf.equal(code, 0xFF) | ((code >= 0xD0) & (code <= 0xD8))
    places = tf.cast(tf.where(tf.equal(data[:-1], 0xFF) & ~inside)[:, 0], tf.int32)
    return tf.concat([places, [tf.size(data)]], axis=0)


def _touched(data: Any, body: Any, size: Any, progressive: Any) -> Any:
    """Coefficients that a scan brings, bool (256 components, 64)."""
    end = body + size
    slots = body + 3 + 2 * tf.range(4)
    numbers = tf.where(slots < end - 3, at(data, slots), -1)
    components = tf.reduce_any(tf.equal(tf.range(256)[:, None], numbers[None]), axis=1)
    first = tf.where(progressive, at(data, end - 3), 0)
    last = tf.where(progressive, at(data, end - 2), 63)
    coefficients = (tf.range(64) >= first) & (tf.range(64) <= last) & (last <= 63)
    return components[:, None] & coefficients[None]


def _low(data: Any, end: Any, progressive: Any) -> Any:
    """Bits that a scan leaves to later ones."""
    return tf.where(progressive, at(data, end - 1) % 16, 0)


def corner_is_grey(image: Any) -> Any:
    """Whether the last pixel of uint8 (h, w, 3) is like that of missing data."""
    corner = tf.tensordot(tf.cast(image[-1, -1], tf.float64), tf.constant([0.299, 0.587, 0.114], tf.float64), 1)
    return tf.abs(corner - GREY) <= NEAR_GREY


def with_filler(content: Any, end: Any) -> Any:
    """The file, a scalar string, with other data in front of its end marker."""
    rest = tf.strings.substr(content, end, tf.strings.length(content) - end)
    return tf.strings.join([tf.strings.substr(content, 0, end), FILLER, rest])
