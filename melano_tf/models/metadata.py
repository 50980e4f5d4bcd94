"""A patient's metadata as numbers: age, sex and site with an indicator for each that says "unknown"."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.errors import InputError

UNKNOWN = "unknown"


@dataclass(frozen=True)
class MetadataCode:
    """How metadata become a float vector (zoome, section III-B; the code is our reading).

    [age / 90, age unknown, one-hot sex, sex unknown, one-hot site, site unknown]; what is unknown is 0 but for its
    indicator.

    Attributes:
        sites: vocabulary of the sites, in the order of the code; "unknown" among them is left out.
        sexes: likewise.
        age_scale: years that are 1.
    """

    sites: tuple[str, ...]
    sexes: tuple[str, ...] = ("female", "male")
    age_scale: float = 90.0

    @property
    def names(self) -> tuple[str, ...]:
        """What each number stands for."""
        return (
            "age",
            "age unknown",
            *(f"sex {sex}" for sex in _known(self.sexes)),
            "sex unknown",
            *(f"site {site}" for site in _known(self.sites)),
            "site unknown",
        )

    @property
    def width(self) -> int:
        """How many numbers there are: 12 for six sites."""
        return len(self.names)

    def encode(self, ages: ArrayLike, sexes: Sequence[str], sites: Sequence[str]) -> NDArray[np.float32]:
        """(n, width) float32 of n patients.

        Args:
            ages: years, NaN where unknown.
            sexes, sites: words of the vocabulary, or "unknown".

        Raises:
            InputError: different numbers of values, a negative or infinite age, a word outside the vocabulary.
        """
        age = np.asarray(ages, dtype=np.float64)
        if age.shape != (len(sexes),) or len(sexes) != len(sites):
            raise InputError(f"metadata: {age.shape} ages, {len(sexes)} sexes and {len(sites)} sites do not match")
        wrong = age[(age < 0) | np.isinf(age)]
        if len(wrong):
            raise InputError(f"metadata: an age of {wrong[0]:g} years; expected 0 or more, or an empty cell")
        missing = np.isnan(age)
        columns = [np.where(missing, 0.0, age / self.age_scale), missing]
        columns += _one_hot(sexes, _known(self.sexes), "sex")
        columns += _one_hot(sites, _known(self.sites), "site")
        return np.stack(columns, axis=1).astype(np.float32)

    def blank(self, count: int) -> NDArray[np.float32]:
        """(count, width) float32 of patients of whom nothing is known."""
        return self.encode(np.full(count, np.nan), [UNKNOWN] * count, [UNKNOWN] * count)


def _known(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for word in words if word != UNKNOWN)


def _one_hot(values: Sequence[str], words: tuple[str, ...], field: str) -> list[NDArray[np.bool_]]:
    """One column a word, and the indicator."""
    order = (*words, UNKNOWN)
    strange = sorted({str(value) for value in values} - set(order))
    if strange:
        raise InputError(f"metadata: {field} {strange[0]!r}; expected one of {', '.join(order)}")
    given = np.asarray(list(values), dtype=object)
    return [given == word for word in order]
