"""What is known of a patient: by words on the command line, or by a table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from melano_tf.dermoscopy.isic_tables import count_faults, parse_value, read_table
from melano_tf.errors import InputError
from melano_tf.metadata_fields import BY_NAME, FIELDS, MetadataField
from melano_tf.specs import load_spec


@dataclass(frozen=True)
class Patient:
    """What is known of the patient and the lesion.

    Attributes:
        known: numbers and words by the fields' names; what is not there is not known.
    """

    known: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, written: Mapping[str, str | None]) -> "Patient":
        """From words as a person writes them, by the fields' names; None and empty ones are unknown.

        Raises:
            InputError: no number of the field, or a word that is not understood; it says which are.
        """
        spec = load_spec("image_metadata")
        return cls.told({one.name: parse_value(one.name, written.get(one.name), spec) for one in FIELDS})

    @classmethod
    def told(cls, values: Mapping[str, Any]) -> "Patient":
        """From values by the fields' names, those of other names and those that say nothing passed over."""
        return cls({name: values[name] for name in BY_NAME if name in values and BY_NAME[name].is_known(values[name])})

    def or_else(self, other: "Patient") -> "Patient":
        """What is known here, and of the other fields what is known there."""
        return Patient({**other.known, **self.known})

    def value(self, one: MetadataField) -> Any:
        """The field's value, or its own for what is not known."""
        return self.known.get(one.name, one.missing)

    def as_json(self, fields: Iterable[MetadataField]) -> dict[str, Any]:
        """Of these fields as JSON can hold it; None for what is not known."""
        return {one.name: self.known.get(one.name) for one in fields}


def read_metadata(path: Path, images: Sequence[Path]) -> tuple[dict[str, Patient], list[str]]:
    """What a CSV says of each image, by the file's name without suffix, and rows whose image was not given.

    Raises:
        InputError: all faults of the table at once, each with its row.
    """
    table = read_table(path, load_spec("image_metadata"), "metadata")
    if table.faults:
        raise InputError.of(f"{path}: {count_faults(table.faults)} (the header is row 1)", table.faults)
    rows = {
        str(row["image"]): Patient.told({str(key): value for key, value in row.items()})
        for row in table.cells.to_dict("records")
    }
    names = {image.stem for image in images}
    return {name: rows[name] for name in rows if name in names}, [name for name in rows if name not in names]
