"""Who is photographed: phantom patients, their lesions, classes and metadata, and the pictures taken of them.

The class of a lesion depends on its patient's age and sex and on its site by known log-odds (SIGNAL); on nothing else.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.metadata_fields import NAMES
from melano_tf.specs import load_spec

LAYOUTS = ("isic2018", "isic2019", "isic2020")
PREFIXES = {"isic2018": "HAM", "isic2020": "IL"}  # of a lesion's name; in 2019 it is the source's
SOURCE_SHARES = {"BCN": 0.45, "HAM": 0.40, "MSK": 0.05, "unnamed": 0.10}
SITE_SHARES = {
    "head/neck": 0.14,
    "torso": 0.42,
    "upper extremity": 0.15,
    "lower extremity": 0.25,
    "palms/soles": 0.03,
    "oral/genital": 0.01,
}
# Of the benign lesions of the 2020 layout.
BENIGN_SHARES = {"NV": 0.85, "BKL": 0.15}
FEWEST_LESIONS = 2  # of each class


@dataclass(frozen=True)
class Signal:
    """Log-odds of a class: by decade of age above 50, of a man, and of sites."""

    decade: float
    male: float
    sites: Mapping[str, float]

    def score(self, age: float, sex: str, site: str) -> float:
        """Sum of the three."""
        return self.decade * (age - 50) / 10 + self.male * (sex == "male") + self.sites.get(site, 0.0)


SIGNAL: dict[str, Signal] = {
    "MEL": Signal(0.45, 0.5, {"head/neck": 1.0, "upper extremity": 0.6, "lower extremity": -0.5, "palms/soles": 0.5}),
    "NV": Signal(-0.30, -0.2, {"torso": 0.4, "head/neck": -0.6}),
    "BCC": Signal(0.45, 0.4, {"head/neck": 1.2}),
    "AK": Signal(0.50, 0.5, {"head/neck": 1.5, "upper extremity": 0.4}),
    "AKIEC": Signal(0.50, 0.5, {"head/neck": 1.5, "lower extremity": 0.4}),
    "BKL": Signal(0.30, 0.0, {"head/neck": 0.5}),
    "DF": Signal(-0.05, -0.6, {"lower extremity": 1.4, "head/neck": -1.0}),
    "VASC": Signal(0.0, 0.0, {"torso": 0.5, "palms/soles": 0.5}),
    "SCC": Signal(0.55, 0.4, {"head/neck": 1.0, "upper extremity": 0.8}),
}


@dataclass(frozen=True)
class PhantomDermoscopySettings:
    """A phantom data set.

    Attributes:
        layout: "isic2018", "isic2019" or "isic2020": classes and official files.
        patients: number of patients.
        lesions_per_patient: fewest and most.
        second_view_share: share of lesions with a second picture; its square have a third.
        malignant_share: of the lesions; 2020 only (officially 0.018).
        imbalance: 2018 and 2019: class counts go with the official ones to this power; 0 is even, 1 official.
        height_px: height of a HAM picture, whose width is 4/3 of it; a BCN picture is a square of 4/3 of it.
        sources: subset of HAM, BCN, MSK, unnamed; None: all four for 2019, HAM for 2018, HAM and BCN for 2020.
        clarity: mean of how clearly a lesion shows its class's structure, 0 to 1; single lesions vary around it.
        signal: factor on the metadata's log-odds; 0: metadata say nothing.
        missing_share: share of ages, sexes and sites that are left empty.
        hair_share: share of pictures with hair.
        ruler_share: share of pictures with ruler marks.
        duplicate_share: share of pictures that stand there twice under two names, every other one as a JPEG saved anew.
        masks: also write the lesions' masks.
    """

    layout: str = "isic2020"
    patients: int = 120
    lesions_per_patient: tuple[int, int] = (1, 4)
    second_view_share: float = 0.3
    malignant_share: float = 0.25
    imbalance: float = 0.4
    height_px: int = 144
    sources: tuple[str, ...] | None = None
    clarity: float = 0.75
    signal: float = 1.0
    missing_share: float = 0.03
    hair_share: float = 0.35
    ruler_share: float = 0.15
    duplicate_share: float = 0.01
    masks: bool = False

    def __post_init__(self) -> None:
        faults = []
        if self.layout not in LAYOUTS:
            faults.append(f"layout {self.layout!r}: one of {', '.join(LAYOUTS)}")
        if unknown := sorted(set(self.sources or ()) - set(SOURCE_SHARES)):
            faults.append(f"sources {', '.join(unknown)}: of {', '.join(SOURCE_SHARES)}")
        if self.sources == ():
            faults.append("sources: at least one")
        if self.layout == "isic2018" and self.sources not in (None, ("HAM",)):
            faults.append("sources: ISIC 2018 is HAM only")
        if self.patients < 1 or not 1 <= self.lesions_per_patient[0] <= self.lesions_per_patient[1]:
            faults.append("patients and lesions_per_patient: at least 1, fewest before most")
        if not 48 <= self.height_px <= 1024:
            faults.append(f"height_px {self.height_px}: 48 to 1024")
        shares = ("second_view_share", "malignant_share", "clarity", "missing_share", "hair_share", "ruler_share")
        faults += [
            f"{name} {getattr(self, name)}: 0 to 1"
            for name in (*shares, "duplicate_share", "imbalance")
            if not 0 <= getattr(self, name) <= 1
        ]
        if self.signal < 0:
            faults.append(f"signal {self.signal}: at least 0")
        if faults:
            raise InputError.of("phantom dermoscopy settings:", faults)

    @property
    def drawn_sources(self) -> tuple[str, ...]:
        """The sources that are drawn."""
        defaults = {"isic2018": ("HAM",), "isic2019": tuple(SOURCE_SHARES), "isic2020": ("HAM", "BCN")}
        return self.sources or defaults[self.layout]


def plan_images(settings: PhantomDermoscopySettings, seed: int) -> pd.DataFrame:
    """One row a picture, before anything is drawn.

    Returns:
        Columns image_id, lesion, patient (str); kind (class whose structure is drawn), label (class of the layout), age
        (float64), sex, site, source (str); clarity, signal (float64; log-odds of the positive class against a nevus);
        patient_seed, lesion_seed, view_seed (int64); copy_of (str or None) and copy ("", "exact", "near"); age_blank,
        sex_blank, site_blank (bool: what the files leave empty); a column and its blank for each further field.

    Raises:
        InputError: too few lesions for the classes.
    """
    rng = np.random.default_rng([seed, 1])
    lesions = _lesions(settings, rng)
    lesions["kind"], lesions["label"] = _classes(settings, lesions, rng)
    positive, rest = SIGNAL["MEL"], SIGNAL["NV"]
    people = list(zip(lesions["age"], lesions["sex"], lesions["site"], strict=True))
    lesions["signal"] = [settings.signal * (positive.score(*person) - rest.score(*person)) for person in people]
    lesions["clarity"] = _clarity(settings.clarity, len(lesions), rng)
    views = 1 + (rng.uniform(size=len(lesions)) < settings.second_view_share).astype(int)
    views += (views > 1) & (rng.uniform(size=len(lesions)) < settings.second_view_share)
    images = lesions.loc[lesions.index.repeat(views)].reset_index(drop=True)
    images["view_seed"] = np.arange(len(images), dtype=np.int64)
    images["copy_of"] = pd.Series([None] * len(images), dtype=object)
    images["copy"] = ""
    images["number"] = np.arange(len(images))
    images = _with_copies(images, settings.duplicate_share, rng)
    for name in ("age", "site"):
        images[f"{name}_blank"] = rng.uniform(size=len(images)) < settings.missing_share
    sexless = rng.uniform(size=settings.patients) < settings.missing_share
    images["sex_blank"] = sexless[images["patient_seed"].to_numpy()]
    for number, name in enumerate(drawn_fields(images)):
        if f"{name}_blank" not in images:
            # By a stream of its own: a further field changes no picture and no other field.
            own = np.random.default_rng([seed, 4, number])
            images[f"{name}_blank"] = own.uniform(size=len(images)) < settings.missing_share
    names = rng.choice(9_000_000, len(images), replace=False) + 1_000_000
    ending = np.where(images["source"].isin(["MSK"]) & (settings.layout == "isic2019"), "_downsampled", "")
    images["image_id"] = [f"ISIC_{name:07d}{end}" for name, end in zip(names, ending, strict=True)]
    by_number = dict(zip(images["number"], images["image_id"], strict=True))
    images["copy_of"] = pd.Series([by_number.get(n) for n in images["copy_of"]], index=images.index, dtype=object)
    order = rng.permutation(len(images))
    return images.drop(columns="number").iloc[order].reset_index(drop=True)


def drawn_fields(plan: pd.DataFrame) -> list[str]:
    """The fields of metadata that the phantoms have."""
    return [name for name in NAMES if name in plan]


def _lesions(settings: PhantomDermoscopySettings, rng: np.random.Generator) -> pd.DataFrame:
    """Patients and their lesions, without a class."""
    count = settings.patients
    ages = np.clip(np.round(rng.normal(50, 17, count) / 5) * 5, 10, 90)
    sexes = np.where(rng.uniform(size=count) < 0.52, "male", "female")
    sources = settings.drawn_sources
    weights = np.array([SOURCE_SHARES[source] for source in sources])
    from_source = rng.choice(len(sources), count, p=weights / weights.sum())
    low, high = settings.lesions_per_patient
    patient = np.repeat(np.arange(count), rng.integers(low, high + 1, count))
    site_weights = np.array(list(SITE_SHARES.values()))
    sites = rng.choice(len(SITE_SHARES), len(patient), p=site_weights / site_weights.sum())
    numbers = rng.choice(9_000_000, count + len(patient), replace=False) + 1_000_000
    source = np.array(sources, dtype=object)[from_source[patient]]
    prefixes = (
        source if settings.layout == "isic2019" else np.full(len(patient), PREFIXES[settings.layout], dtype=object)
    )
    return pd.DataFrame(
        {
            "patient": [f"IP_{numbers[p]:07d}" for p in patient],
            "lesion": [f"{prefix}_{n:07d}" for prefix, n in zip(prefixes, numbers[count:], strict=True)],
            "patient_seed": patient.astype(np.int64),
            "lesion_seed": np.arange(len(patient), dtype=np.int64),
            "age": ages[patient].astype(float),
            "sex": sexes[patient],
            "site": np.array(list(SITE_SHARES), dtype=object)[sites],
            "source": source,
        }
    )


def _classes(
    settings: PhantomDermoscopySettings, lesions: pd.DataFrame, rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Kind and label of each lesion: exact counts, drawn without replacement with weights exp(score), rarest first."""
    counts = _counts(settings, len(lesions))
    kinds = np.full(len(lesions), "", dtype=object)
    noise = rng.gumbel(size=(len(counts), len(lesions)))
    people = list(zip(lesions["age"], lesions["sex"], lesions["site"], strict=True))
    for row, kind in enumerate(sorted(counts, key=lambda name: (counts[name], name))):
        scores = np.array([settings.signal * SIGNAL[kind].score(*person) for person in people]) + noise[row]
        scores[kinds != ""] = -math.inf
        kinds[np.argsort(-scores, kind="stable")[: counts[kind]]] = kind
    if settings.layout != "isic2020":
        return list(kinds), list(kinds)
    return list(kinds), ["melanoma" if kind == "MEL" else "benign" for kind in kinds]


def _counts(settings: PhantomDermoscopySettings, lesions: int) -> dict[str, int]:
    """Lesions of each kind, summing to `lesions`, at least FEWEST_LESIONS each."""
    if settings.layout == "isic2020":
        benign = 1.0 - settings.malignant_share
        weights = {"MEL": settings.malignant_share} | {kind: benign * share for kind, share in BENIGN_SHARES.items()}
    else:
        official: Mapping[str, Any] = load_spec(settings.layout)["official"]["classes"]
        weights = {kind: float(count) ** settings.imbalance for kind, count in official.items()}
    if lesions < FEWEST_LESIONS * len(weights):
        raise InputError(
            f"{lesions} phantom lesions are too few for {len(weights)} classes; draw at least "
            f"{FEWEST_LESIONS * len(weights)} (more patients)"
        )
    total = sum(weights.values())
    counts = {kind: max(round(lesions * weight / total), FEWEST_LESIONS) for kind, weight in weights.items()}
    # Rounding and the least count are paid for by the largest class.
    largest = max(counts, key=lambda kind: counts[kind])
    counts[largest] += lesions - sum(counts.values())
    return counts


def _clarity(mean: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Beta distributed with this mean; its spread is largest where the mean is 1/2."""
    if mean in (0.0, 1.0):
        return np.full(count, mean)
    return rng.beta(6 * mean, 6 * (1 - mean), count)


def _with_copies(images: pd.DataFrame, share: float, rng: np.random.Generator) -> pd.DataFrame:
    count = round(share * len(images))
    copies = images.iloc[np.sort(rng.choice(len(images), count, replace=False))].copy()
    copies["copy_of"] = copies["number"].astype(object)
    copies["copy"] = np.where(np.arange(count) % 2 == 0, "exact", "near")
    copies["number"] = np.arange(len(images), len(images) + count)
    return pd.concat([images, copies], ignore_index=True) if count else images
