"""Damage done to real files and records by a seeded generator."""

import copy
import json
import random
from typing import Any

ODD: tuple[Any, ...] = (
    None,
    0,
    -1,
    1e308,
    float("nan"),
    "",
    "=1+1",
    "x" * 300,
    [],
    {},
    [[]],
    {"a": None},
    True,
    [1, "a"],
)


def torn(content: bytes, draw: random.Random) -> bytes:
    """The same file cut short, with bits turned, a piece doubled or zeroed, or other bytes at its start."""
    data, at = bytearray(content), draw.randrange(max(1, len(content)))
    kind = draw.randrange(5)
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        for _ in range(draw.randint(1, 8)):
            place = draw.randrange(max(1, len(data)))
            data[place : place + 1] = bytes([draw.randrange(256)])
    elif kind == 2:
        data[at:at] = data[at : at + draw.randint(1, 200)]
    elif kind == 3:
        size = draw.randint(1, 64)
        data[at : at + size] = bytes(len(data[at : at + size]))
    else:
        data[:4] = draw.randbytes(4)
    return bytes(data)


def bent(content: Any, draw: random.Random) -> Any:
    """The same JSON with one node, somewhere, replaced by something else, or one name gone."""
    whole = copy.deepcopy(content)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(whole)
    if not places or draw.random() < 0.05:
        return copy.deepcopy(draw.choice(ODD))
    node, key = draw.choice(places)
    if isinstance(node, dict) and draw.random() < 0.3:
        del node[key]
    else:
        node[key] = copy.deepcopy(draw.choice(ODD))
    return whole


def damaged_json(content: bytes, draw: random.Random) -> bytes:
    """A damaged JSON file: torn, or whole and of another shape."""
    if draw.random() < 0.4:
        return torn(content, draw)
    return json.dumps(bent(json.loads(content), draw)).encode()
