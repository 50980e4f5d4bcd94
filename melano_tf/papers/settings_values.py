"""What the recipes' settings share: lists, how intervals are drawn, and what differs from the paper."""

from collections.abc import Sequence
from typing import Any

from tyro.constructors import PrimitiveConstructorSpec

from melano_tf.errors import InputError
from melano_tf.runs.settings_digest import flat, plain, seed_for


def listed(option: str, allowed: Sequence[int]) -> PrimitiveConstructorSpec[tuple[int, ...]]:
    """How the command line gives a tuple of numbers: "1,4,5" or "1 4 5", "all" for all of them, "none" for none.

    Args:
        option: its name, for the message of what is wrong.
        allowed: the numbers that there are.
    """

    def read(words: list[str]) -> tuple[int, ...]:
        text = " ".join(words).strip()
        if text.lower() in ("all", "none"):
            return tuple(sorted(allowed)) if text.lower() == "all" else ()
        parts = text.replace(",", " ").split()
        if not parts or not all(part.isdigit() for part in parts):
            raise InputError(_unlisted(option, text, allowed))
        return numbers(option, tuple(map(int, parts)), allowed)

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="1,2,…|none",
        instance_from_str=read,
        is_instance=lambda given: isinstance(given, tuple) and all(isinstance(number, int) for number in given),
        str_from_instance=lambda given: [",".join(map(str, given)) or "none"],
    )


def numbers(option: str, given: Sequence[int], allowed: Sequence[int]) -> tuple[int, ...]:
    """The numbers that are asked for, each once, in order.

    Raises:
        InputError: one that is not allowed.
    """
    if not set(given) <= set(allowed):
        raise InputError(_unlisted(option, ",".join(map(str, given)), allowed))
    return tuple(sorted(set(given)))


def _unlisted(option: str, text: str, allowed: Sequence[int]) -> str:
    low, high = min(allowed), max(allowed)
    which = f"from {low} to {high}" if len(allowed) == high - low + 1 else f"of {', '.join(map(str, sorted(allowed)))}"
    return f"{option} {text}: give numbers {which}, such as {sorted(allowed)[-2]},{high}, or none"


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


def resampled(settings: Any, what: str = "intervals") -> dict[str, Any]:
    """repeats, level and seed of what is resampled: how often, with which coverage, from which draws."""
    judged = settings.evaluation
    return {"repeats": judged.repeats, "level": judged.level, "seed": seed_for(settings.seed, what)}


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
