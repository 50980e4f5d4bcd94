"""What may be known of a patient and a lesion: one description a field, from which everything else follows.

Readers take a field's column from any table that holds one of them, models code it, `predict` has an option for it, an
exported graph an input, its card and its calls a word. A field is added here (and drawn by `phantoms.skin.patients`).
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

UNKNOWN = "unknown"
NOT_SENT = -1.0  # a number that is not known, where NaN cannot be written (JSON); no field has negative numbers


@dataclass(frozen=True)
class NumberField:
    """A number from 0 on; NaN where it is not known.

    Attributes:
        name: of the column of the records, the option, the input of the graph and the key in answers.
        about: what it is, for the option's help.
        unit: as it stands behind a number.
        scale: the number that is 1 in the code.
        highest: what is allowed.
        example: for the calls that are written beside an exported model.
        asked: numbers that everybody is given in turn, to see what each does.
        half: who holds such a number: those at most so far from it.
        headers: of its column, where a data set's description names no other.
    """

    name: str
    about: str
    unit: str
    scale: float
    highest: float
    example: float
    asked: tuple[float, ...]
    half: float
    headers: tuple[str, ...] = ()
    dtype: str = field(default="number", init=False)

    @property
    def key(self) -> str:
        """Of what a model's sidecar keeps of it: `scale`."""
        return f"{self.name}_scale"

    @property
    def missing(self) -> float:
        """The value of what is not known."""
        return math.nan

    def kept(self) -> float:
        """For the sidecar."""
        return self.scale

    def restored(self, kept: Any) -> "NumberField":
        """As a model was trained with it; raises ValueError or TypeError where that can be none."""
        scale = float(kept)
        if not 0 < scale < math.inf:
            raise ValueError(f"{self.key} {kept!r}")
        return replace(self, scale=scale)

    def parser(self, spellings: Mapping[str, str]) -> Callable[[str], float]:
        """What reads a cell that is not empty; it raises ValueError with the words behind the cell."""
        return self.parse

    def parse(self, cell: str) -> float:
        """The number that a person wrote."""
        if cell.casefold() == UNKNOWN:
            return math.nan
        value = finite_number(cell)
        if not 0 <= value <= self.highest:
            raise ValueError(f"lies outside of 0 to {self.highest:g} {self.unit}; leave it empty where it is not known")
        return value

    def is_known(self, value: Any) -> bool:
        """Whether this value says anything."""
        return not math.isnan(value)

    def words_for_card(self) -> str:
        """For the model's card."""
        return f"{self.name} in {self.unit} ({NOT_SENT:g}: unknown)"


@dataclass(frozen=True)
class CategoryField:
    """One of several words; "unknown" where it is not known.

    Attributes:
        name: as of a `NumberField`.
        about: what it is, for the option's help.
        plural: what its words are called in the data sets' descriptions and in sidecars.
        words: in the order of a one-hot code, "unknown" last.
        example: for the calls that are written beside an exported model.
        headers: of its column, where a data set's description names no other.
    """

    name: str
    about: str
    plural: str
    words: tuple[str, ...]
    example: str
    headers: tuple[str, ...] = ()
    dtype: str = field(default="choice", init=False)

    @property
    def key(self) -> str:
        """Of what a model's sidecar keeps of it: `words`."""
        return self.plural

    @property
    def known_words(self) -> tuple[str, ...]:
        """The words without "unknown"."""
        return tuple(word for word in self.words if word != UNKNOWN)

    @property
    def missing(self) -> str:
        """The value of what is not known."""
        return UNKNOWN

    def kept(self) -> list[str]:
        """For the sidecar."""
        return list(self.words)

    def restored(self, kept: Any) -> "CategoryField":
        """As a model was trained with it; raises ValueError where that can be none."""
        words = tuple(kept)
        if not words or not all(isinstance(word, str) for word in words):
            raise ValueError(f"the vocabulary of {self.name} is missing")
        return replace(self, words=words)

    def parser(self, spellings: Mapping[str, str]) -> Callable[[str], str]:
        """What reads a cell that is not empty.

        Args:
            spellings: words of a data set and what they mean here; this field's own are always understood.
        """
        own = {} if set(self.words) <= set(spellings) else {word: word for word in self.words}
        return choice_parser({**own, **spellings})

    def is_known(self, value: Any) -> bool:
        """Whether this value says anything."""
        return bool(value != UNKNOWN)

    def words_for_card(self) -> str:
        """For the model's card."""
        return f"{self.name} ({', '.join(self.words)})"


MetadataField = NumberField | CategoryField

AGE = NumberField(
    name="age",
    about="the patient's age in years",
    unit="years",
    scale=90.0,
    highest=120.0,
    example=55,
    asked=(20, 35, 50, 65, 80),
    half=7.5,
)
SEX = CategoryField(
    name="sex",
    about="female or male",
    plural="sexes",
    words=("female", "male", UNKNOWN),
    example="female",
)
# One vocabulary for all three years of ISIC.
SITE = CategoryField(
    name="site",
    about="where the lesion is, for example torso or head/neck",
    plural="sites",
    words=(
        "head/neck",
        "torso",
        "upper extremity",
        "lower extremity",
        "palms/soles",
        "oral/genital",
        UNKNOWN,
    ),
    example="torso",
)
FIELDS: tuple[MetadataField, ...] = (AGE, SEX, SITE)
BY_NAME: Mapping[str, MetadataField] = {one.name: one for one in FIELDS}
NAMES = tuple(BY_NAME)


def finite_number(cell: str) -> float:
    """A cell as a number; raises ValueError with the words behind the cell."""
    try:
        value = float(cell)
    except ValueError:
        raise ValueError("is not a number") from None
    if not math.isfinite(value):
        raise ValueError("is not a finite number")
    return value


def choice_parser(allowed: Mapping[str, str]) -> Callable[[str], str]:
    """What reads one of some words, whatever its capitals and spaces; it raises ValueError with those there are."""
    folded = {str(word).casefold(): str(meaning) for word, meaning in allowed.items()}

    def parse(cell: str) -> str:
        key = " ".join(cell.casefold().split())
        if key in folded:
            return folded[key]
        close = difflib.get_close_matches(key, folded, n=1, cutoff=0.7)
        hint = f"; is {close[0]!r} meant?" if close else ""
        raise ValueError(f"is none of {', '.join(folded)}{hint}")

    return parse


def listed(names: Iterable[str]) -> str:
    """ "age, sex and site"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
