"""What the recipes' settings share: lists given as text, processes, and which settings differ from the paper's."""

import os
from collections.abc import Sequence
from typing import Any

from melano_tf.errors import InputError
from melano_tf.runs.plain import flat, plain


def numbers(option: str, text: str, allowed: range) -> tuple[int, ...]:
    """Numbers written as "1,4,5", each once, in order; "none" for none of them.

    Raises:
        InputError: not such a list, or a number that is not allowed.
    """
    if text.strip().lower() == "none":
        return ()
    try:
        found = sorted({int(part) for part in text.replace(" ", ",").split(",") if part})
    except ValueError:
        found = []
    if not found or any(number not in allowed for number in found):
        raise InputError(
            f"{option} {text}: give numbers from {allowed.start} to {allowed.stop - 1}, such as "
            f"{allowed.stop - 2},{allowed.stop - 1}, or none"
        )
    return tuple(found)


def names(option: str, text: str, allowed: Sequence[str], what: str) -> tuple[str, ...]:
    """Words written as "roc,pr", in the order of `allowed`; "all" for all of them, "none" for none.

    Raises:
        InputError: a word that is not allowed.
    """
    if text.strip().lower() == "all":
        return tuple(allowed)
    if text.strip().lower() == "none":
        return ()
    asked = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in asked if name not in allowed]
    if unknown or not asked:
        named = repr(unknown[0]) if unknown else "is named"
        raise InputError(f"{option} {text}: no {what} {named}; there are {', '.join(allowed)}, or all")
    return tuple(name for name in allowed if name in asked)


def workers(settings: Any) -> int:
    """Threads and processes for slides and images: `settings.workers` as set, or (0) one a core."""
    return int(settings.workers) or os.cpu_count() or 1


def differing(
    settings: Any, paper: Any, aside: Sequence[str], groups: Sequence[str]
) -> list[tuple[str, object, object]]:
    """(name, value here, value in the paper) of every setting of the method that differs from the paper's.

    Args:
        settings: as they are.
        paper: the paper's.
        aside: names that are no part of the method: what to read, where to write, how many processes.
        groups: dotted names' beginnings that are no part of it, for example "phantom".
    """
    here, printed = flat(plain(settings)), flat(plain(paper))
    return [
        (name, here.get(name), printed.get(name))
        for name in {**printed, **here}  # an optional group of settings stands in one of them alone
        if here.get(name) != printed.get(name)
        and name not in aside
        and not name.startswith(tuple(f"{g}." for g in groups))
    ]
