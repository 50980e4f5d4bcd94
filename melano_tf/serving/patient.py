"""What is known of a patient: by words on the command line, or by a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melano_tf.dermoscopy.isic_layouts import count_faults, parse_value, read_table
from melano_tf.errors import InputError
from melano_tf.models.metadata import UNKNOWN
from melano_tf.specs import load_spec


@dataclass(frozen=True)
class Patient:
    """What is known of the patient and the lesion; what is not is NaN or "unknown"."""

    age: float = float("nan")
    sex: str = UNKNOWN
    site: str = UNKNOWN

    @classmethod
    def of(cls, age: str | None, sex: str | None, site: str | None) -> "Patient":
        """From words as a person writes them; None and empty ones are unknown.

        Raises:
            InputError: not an age, or a word that is not understood; it says which are.
        """
        spec = load_spec("image_metadata")
        return cls(*(parse_value(name, value, spec) for name, value in (("age", age), ("sex", sex), ("site", site))))

    def known(self) -> dict[str, Any]:
        """As JSON can hold it; None for what is not known."""
        return {
            "age": None if self.age != self.age else self.age,
            **{name: None if value == UNKNOWN else value for name, value in (("sex", self.sex), ("site", self.site))},
        }


def read_metadata(path: Path, images: Sequence[Path]) -> tuple[dict[str, Patient], list[str]]:
    """What a CSV says of each image, by the file's name without suffix, and rows whose image was not given.

    Raises:
        InputError: all faults of the table at once, each with its row.
    """
    table = read_table(path, load_spec("image_metadata"), "metadata")
    if table.faults:
        raise InputError.of(f"{path}: {count_faults(table.faults)} (the header is row 1)", table.faults)
    rows = {
        str(row["image"]): Patient(**{name: row[name] for name in ("age", "sex", "site") if name in row})
        for row in table.cells.to_dict("records")
    }
    names = {image.stem for image in images}
    return {name: rows[name] for name in rows if name in names}, [name for name in rows if name not in names]
