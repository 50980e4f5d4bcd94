"""A patient's metadata as numbers: each field with an indicator that says "unknown"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from melano_tf.errors import InputError
from melano_tf.metadata_fields import FIELDS, UNKNOWN, CategoryField, MetadataField, NumberField, listed


@dataclass(frozen=True)
class MetadataCode:
    """How metadata become a float vector (zoome, section III-B; the code is our reading).

    One part a field: [number / scale, number unknown] or [one-hot word, word unknown]; of today's fields [age / 90, age
    unknown, one-hot sex, sex unknown, one-hot site, site unknown]. What is unknown is 0 but for its indicator.

    Attributes:
        fields: with the scales and words of this code, in its order.
    """

    fields: tuple[MetadataField, ...] = FIELDS

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "MetadataCode":
        """The code that a model was trained with, from its sidecar: of the fields that it names.

        Raises:
            ValueError, TypeError: it can be none.
        """
        if strange := sorted(set(written) - {field.key for field in FIELDS}):
            raise ValueError(f"metadata {strange[0]!r} is of another program")
        return cls(tuple(field.restored(written[field.key]) for field in FIELDS if field.key in written))

    def to_json(self) -> dict[str, Any]:
        """For the sidecar."""
        return {field.key: field.kept() for field in self.fields}

    @property
    def names(self) -> tuple[str, ...]:
        """What each number stands for."""
        return tuple(name for field in self.fields for name in _names(field))

    @property
    def width(self) -> int:
        """How many numbers there are: 12 for six sites."""
        return len(self.names)

    def values_of(self, records: Any) -> dict[str, NDArray[Any]]:
        """What a data frame of records says of its patients, (n,) for each field: for `encode`."""
        kinds = {one.name: float if isinstance(one, NumberField) else object for one in self.fields}
        return {name: records[name].to_numpy(kind) for name, kind in kinds.items()}

    def encode(self, values: Mapping[str, ArrayLike]) -> NDArray[np.float32]:
        """(n, width) float32 of n patients.

        Args:
            values: by the fields' names, (n,) each: numbers, NaN where unknown; words of the vocabulary, or "unknown".
                Others are passed over, so that a table of records is understood.

        Raises:
            InputError: different numbers of values, a negative or infinite number, a word outside the vocabulary.
        """
        counts = {field.name: len(np.asarray(values[field.name])) for field in self.fields}
        if len(set(counts.values())) > 1:
            words = listed(f"{count} of {name}" for name, count in counts.items())
            raise InputError(f"metadata: {words} do not match")
        columns: list[NDArray[Any]] = []
        for field in self.fields:
            if isinstance(field, NumberField):
                columns += _number(field, np.asarray(values[field.name], dtype=np.float64))
            else:
                columns += _one_hot(field, list(np.asarray(values[field.name], dtype=object)))
        return np.stack(columns, axis=1).astype(np.float32)

    def blank(self, count: int) -> NDArray[np.float32]:
        """(count, width) float32 of patients of whom nothing is known."""
        return self.encode({field.name: [field.missing] * count for field in self.fields})


def _names(field: MetadataField) -> tuple[str, ...]:
    if isinstance(field, NumberField):
        return (field.name, f"{field.name} {UNKNOWN}")
    return tuple(f"{field.name} {word}" for word in (*field.known_words, UNKNOWN))


def _number(field: NumberField, values: NDArray[np.float64]) -> list[NDArray[Any]]:
    """The scaled numbers, and the indicator."""
    wrong = values[(values < 0) | np.isinf(values)]
    if len(wrong):
        raise InputError(f"metadata: {field.name} of {wrong[0]:g} {field.unit}; expected 0 or more, or an empty cell")
    missing = np.isnan(values)
    return [np.where(missing, 0.0, values / field.scale), missing]


def _one_hot(field: CategoryField, values: Sequence[Any]) -> list[NDArray[np.bool_]]:
    """One column a word, and the indicator."""
    order = (*field.known_words, UNKNOWN)
    strange = sorted({str(value) for value in values} - set(order))
    if strange:
        raise InputError(f"metadata: {field.name} {strange[0]!r}; expected one of {', '.join(order)}")
    given = np.asarray(values, dtype=object)
    return [given == word for word in order]
