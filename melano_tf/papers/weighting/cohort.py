"""The first steps: records, decoded and colour-normalised images, the tree of classes, and who trains and judges whom
(sections 4.1, 4.2 and 4.4)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from melano_tf.dermoscopy.colour import ColourConstancy
from melano_tf.errors import InputError
from melano_tf.evaluation.holdout import inner_holdout
from melano_tf.models.taxonomy import Taxonomy
from melano_tf.papers.choices import workers
from melano_tf.papers.weighting.settings import ImageStoreSettings, WeightingSettings
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.pipelines.image_steps import checksums, decode_images, read_images
from melano_tf.pipelines.images import ImageCache
from melano_tf.specs import load_spec
from melano_tf.splits import owner_groups
from melano_tf.workspace import Run, digest, seed_for

Say = Callable[[str], None]
DATASET = "isic2018"


@dataclass(frozen=True)
class Division:
    """One random split, as places in the records.

    Attributes:
        train, judge: int64; no lesion is in both.
    """

    train: np.ndarray
    judge: np.ndarray


@dataclass(frozen=True)
class Cohort:
    """The images that can be used, decoded, and their splits.

    Attributes:
        records: one row an image: image_id, path, label, target (class index), lesion, source, group (the lesion; what
            must not be divided).
        classes: names in the order of the targets, the challenge's column order.
        taxonomy: the tree of classes.
        cache: the decoded images.
        divisions: the splits, (count,).
        key: of the decoded images.
    """

    records: pd.DataFrame
    classes: tuple[str, ...]
    taxonomy: Taxonomy
    cache: ImageCache
    divisions: tuple[Division, ...]
    key: str

    def names(self, places: np.ndarray) -> list[str]:
        """Image names at these places."""
        return list(self.records["image_id"].to_numpy()[places])

    def targets(self, places: np.ndarray) -> np.ndarray:
        """Class indices at these places, int64."""
        return self.records["target"].to_numpy()[places]

    def counts(self, places: np.ndarray) -> np.ndarray:
        """Images of each class at these places, int64 (C,)."""
        return np.bincount(self.targets(places), minlength=len(self.classes))

    def facts(self, places: np.ndarray) -> str:
        """A key of which images stand at these places, of which class and lesion."""
        rows = self.records.iloc[places]
        return digest([self.key, rows[["image_id", "target", "group"]].to_numpy().tolist()])


def cache_settings(store: ImageStoreSettings) -> ImageCacheSettings:
    """How the cache stores images, colour normalisation included."""
    colour = None
    if store.colour != "none":
        colour = ColourConstancy(store.colour, p=store.minkowski, mask_saturated=store.mask_saturated)
    return ImageCacheSettings(stored_px=store.stored_px, max_pixels=store.max_pixels, colour=colour)


def read_taxonomy(file: Path | None, classes: tuple[str, ...]) -> Taxonomy:
    """The tree of classes from a YAML file, or the paper's (section 4.2).

    Raises:
        InputError: no such file, not YAML, or not a tree over these classes; every fault a line.
    """
    if file is None:
        return Taxonomy.from_mapping(load_spec(DATASET)["taxonomy"], classes)
    try:
        tree = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--taxonomy {file}: cannot be read ({error.strerror or error})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--taxonomy {file}: is not YAML ({' '.join(str(error).split())})") from None
    if isinstance(tree, dict) and list(tree) == ["taxonomy"]:
        tree = tree["taxonomy"]  # as it stands in the data description
    try:
        return Taxonomy.from_mapping(tree, classes)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def class_names() -> tuple[str, ...]:
    """The seven classes in the challenge's column order."""
    labels: dict[str, int] = load_spec(DATASET)["labels"]
    return tuple(sorted(labels, key=lambda name: labels[name]))


def prepare_cohort(run: Run, settings: WeightingSettings, say: Say) -> Cohort:
    """Read the tables, decode the images, and draw the random splits."""
    classes = class_names()
    taxonomy = read_taxonomy(settings.taxonomy, classes)
    records = read_records(run, settings, say)
    check_classes(records, classes, settings)
    sums, store = checksums(run, records), cache_settings(settings.store)
    records, cache, key = decode_images(run, records, sums, store, settings.cache, workers(settings), say)
    check_classes(records, classes, settings)
    index = {name: place for place, name in enumerate(classes)}
    groups = owner_groups(records["lesion"].tolist(), records["image_id"].tolist())
    records = records.assign(target=records["label"].map(index).astype("int64"), group=groups)
    divisions = divide(run, settings, records, classes, say)
    return Cohort(records, classes, taxonomy, cache, divisions, key)


def read_records(run: Run, settings: WeightingSettings, say: Say) -> pd.DataFrame:
    """The records of the user's tables, or of phantom images drawn now; those without a file are left out and named.

    Raises:
        InputError: the tables are not ISIC 2018's, or name no lesions.
    """
    seed = seed_for(settings.seed, "phantoms")
    largest, threads = settings.store.max_pixels, workers(settings)
    records, findings, table = read_images(
        run, settings.table, settings.images, settings.phantom, seed, largest, threads, say
    )
    if findings.dataset != DATASET:
        raise InputError(f"{table}: a table of {findings.dataset}; this paper is about ISIC 2018's seven classes")
    if records["lesion"].isna().all():
        raise InputError(
            f"{table}: names no lesions, which must not be divided; also give "
            "ISIC2018_Task3_Training_LesionGroupings.csv or HAM10000's metadata"
        )
    usable = records[records["path"].notna()].reset_index(drop=True)
    where = "phantoms" if not settings.table else settings.table[0]
    say(f"images    {len(usable):,} of {usable['lesion'].nunique():,} lesions ({where})")
    return usable


def check_classes(records: pd.DataFrame, classes: tuple[str, ...], settings: WeightingSettings) -> None:
    """Every class must have two lesions, so that each side of a split can hold one.

    Raises:
        InputError: names each class that has not.
    """
    lesions = records.groupby("label")["lesion"].nunique()
    faults = [
        f"class {name}: {'no image' if not lesions.get(name, 0) else 'one lesion'}"
        for name in classes
        if lesions.get(name, 0) < 2
    ]
    if faults:
        what = "the phantoms" if not settings.table else ", ".join(map(str, settings.table))
        raise InputError.of(
            f"{what}: every class needs at least two lesions with an image, one to train and one to judge; "
            "add images of:",
            faults,
        )


def divide(
    run: Run, settings: WeightingSettings, records: pd.DataFrame, classes: tuple[str, ...], say: Say
) -> tuple[Division, ...]:
    """Random splits by lesion (section 4.4), stratified, each drawn anew: one image may judge in several of them."""
    divisions = []
    groups, labels = records["group"].tolist(), records["label"].tolist()
    for number in range(1, settings.splits.count + 1):
        drawn = inner_holdout(groups, labels, settings.splits.share, seed_for(settings.seed, "split", str(number)))
        judged = drawn.mask(groups)
        division = Division(np.flatnonzero(~judged), np.flatnonzero(judged))
        shared = set(records["group"][judged]) & set(records["group"][~judged])
        if shared:  # by construction there are none
            raise InputError(f"split {number}: lesions on both sides: {', '.join(sorted(shared)[:5])}")
        divisions.append(division)
        counted = records["target"][judged].value_counts()
        say(
            f"split {number}   {len(division.train):,} images train, {len(division.judge):,} of "
            f"{records['group'][judged].nunique():,} other lesions judge: "
            + ", ".join(f"{name} {counted.get(index, 0)}" for index, name in enumerate(classes))
        )
    run.note(
        splits={str(n): records["image_id"][d.judge].tolist() for n, d in enumerate(divisions, start=1)},
    )
    return tuple(divisions)
