"""The first steps: records, decoded and colour-normalised images, the tree of classes, and who trains and judges whom
(sections 4.1, 4.2 and 4.4)."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from melano_tf.dermoscopy.colour_constancy import ColourConstancy
from melano_tf.errors import InputError
from melano_tf.models.metadata_layer import MetadataCode
from melano_tf.models.taxonomy import Taxonomy
from melano_tf.papers.image_steps import ImageRecords, PaperTables, copies_of, usable_images
from melano_tf.papers.shell import Looked, Work
from melano_tf.papers.weighting.image_settings import ImageStoreSettings
from melano_tf.papers.weighting.settings import WeightingSettings
from melano_tf.pipelines.image_cache import ImageCache
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.runs.settings_digest import digest, plain, seed_for
from melano_tf.specs import load_spec
from melano_tf.splits.folds import grouped_folds
from melano_tf.splits.inner_holdout import inner_holdout
from melano_tf.splits.leaks import LeakError, image_leaks, leak_lines
from melano_tf.splits.undivided_groups import joined_groups, owner_groups, pair_places

DATASET = "isic2018"
TABLES = PaperTables(
    DATASET,
    "ISIC 2018's seven classes",
    "names no lesions, which must not be divided; also give ISIC2018_Task3_Training_LesionGroupings.csv or HAM10000's "
    "metadata",
)
CODE = MetadataCode()


@dataclass(frozen=True)
class Division:
    """One random split, as places in the records.

    Attributes:
        train, judge: int64; no lesion is in both.
    """

    train: np.ndarray
    judge: np.ndarray


@dataclass(frozen=True)
class WeightingImages:
    """The images that can be used, decoded.

    Attributes:
        records: one row an image: image_id, path, label, target (class index), lesion, source, group (what must not be
            divided: the lesion, and lesions that share a copy of an image), sha256 (of the file).
        classes: names in the order of the targets, the challenge's column order.
        taxonomy: the tree of classes.
        cache: the decoded images.
        store: how they are kept.
        pairs: places (in `records`) of two images that are copies, by kind.
    """

    records: pd.DataFrame
    classes: tuple[str, ...]
    taxonomy: Taxonomy
    cache: ImageCache
    store: ImageCacheSettings
    pairs: Mapping[str, list[tuple[int, int]]]

    def names(self, places: np.ndarray) -> list[str]:
        """Image names at these places."""
        return list(self.records["image_id"].to_numpy()[places])

    def targets(self, places: np.ndarray) -> np.ndarray:
        """Class indices at these places, int64."""
        return self.records["target"].to_numpy()[places]

    def counts(self, places: np.ndarray) -> np.ndarray:
        """Images of each class at these places, int64 (C,)."""
        return np.bincount(self.targets(places), minlength=len(self.classes))

    def told(self, places: np.ndarray) -> np.ndarray:
        """Age, sex and site at these places, float32 (n, `CODE.width`)."""
        return CODE.encode(CODE.values_of(self.records.iloc[places]))

    def facts(self, places: np.ndarray) -> str:
        """A key of which images stand at these places, of which content, class and lesion."""
        rows = self.records.iloc[places][["image_id", "sha256", "target", "group"]]
        return digest([plain(self.store), rows.to_numpy().tolist()])


def cache_settings(store: ImageStoreSettings) -> ImageCacheSettings:
    """How the cache stores images, colour normalisation included."""
    colour = None
    if store.colour != "none":
        colour = ColourConstancy(store.colour, p=store.minkowski, mask_saturated=store.mask_saturated)
    return ImageCacheSettings(store.stored_px, store.max_pixels, store.crop, colour)


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


def said_images(work: Work, found: ImageRecords) -> None:
    """Say how many images there are, of how many lesions.

    Raises:
        InputError: as `PaperTables.check`, or there are too few of a class.
    """
    settings, there = work.settings, found.there
    TABLES.check(found.table, found.records, found.findings)
    where = "phantoms" if not settings.table else settings.table[0]
    work.say(f"images    {len(there):,} of {there['lesion'].nunique():,} lesions ({where})")
    check_classes(there, class_names(), settings)


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


def gather(work: Work, taxonomy: Taxonomy) -> Looked:
    """The images that can be used, each with its class and its lesion.

    Raises:
        InputError: of a class too few could be decoded.
    """
    classes, store = class_names(), cache_settings(work.settings.store)
    records, cache = usable_images(work, store)
    check_classes(records, classes, work.settings)
    image_ids = records["image_id"].tolist()
    copies = copies_of(work)
    pairs = pair_places(copies, image_ids)
    joins = itertools.chain(*pairs.values()) if work.settings.splits.join_copies else ()
    records = records.assign(
        target=records["label"].map({name: place for place, name in enumerate(classes)}).astype("int64"),
        group=joined_groups(owner_groups(records["lesion"].tolist(), image_ids), joins),
        sha256=records["image_id"].map(work.value("read").sums),
    )
    work.run.note(copies=copies["kind"].value_counts().to_dict())
    cohort = WeightingImages(records, classes, taxonomy, cache, store, pairs)
    return Looked(cohort, cohort.facts(np.arange(len(records))))


def tell(work: Work) -> Looked:
    """The metadata of all images, which the best cell may be told.

    Raises:
        InputError: the table says nothing of anybody.
    """
    cohort = work.value("cohort")
    told = cohort.told(np.arange(len(cohort.records)))
    if (told == CODE.blank(len(told))).all():
        raise InputError(
            "--transfer.metadata: no image has an age, a sex or a site; give HAM10000's metadata as --table, or leave "
            "this setting out"
        )
    return Looked(told, digest(told.tolist()))


def divide(work: Work, number: int) -> Looked:
    """A random split by lesion (section 4.4), stratified, drawn anew: one image may judge in several of them.

    With --preset ham10000 a fold by lesion, stratified, and all others: each image judges in one of them.

    Raises:
        LeakError: a lesion, or copies of an image, on both sides.
    """
    settings, cohort = work.settings, work.value("cohort")
    records = cohort.records
    groups, labels = records["group"].tolist(), records["label"].tolist()
    if settings.transfer is not None:
        fold = grouped_folds(groups, labels, settings.transfer.folds, seed_for(settings.seed, "folds"))
        judged = fold == number - 1
    else:
        drawn = inner_holdout(groups, labels, settings.splits.share, seed_for(settings.seed, "split", str(number)))
        judged = drawn.mask(groups)
    check_leaks(work, number, judged)
    split = Division(np.flatnonzero(~judged), np.flatnonzero(judged))
    counted = zip(cohort.classes, cohort.counts(split.judge), strict=True)
    work.say(
        f"split {number}   {len(split.train):,} images train, {len(split.judge):,} of "
        f"{records['group'][judged].nunique():,} other lesions judge: "
        + ", ".join(f"{name} {count}" for name, count in counted)
    )
    noted = work.run.record().get("splits", {})
    work.run.note(splits={**noted, str(number): cohort.names(split.judge)})
    return Looked(split, [cohort.facts(split.train), cohort.facts(split.judge)])


def check_leaks(work: Work, number: int, judged: np.ndarray) -> None:
    """Nothing stands on both sides of a split, unless --allow-leaks says so.

    Args:
        number: of the split.
        judged: which images it judges, bool (n,).

    Raises:
        LeakError: a lesion, or copies of an image, on both sides.
    """
    cohort = work.value("cohort")
    records = cohort.records
    owners = {"lesion": records["lesion"].tolist()}
    leaks = image_leaks(judged.astype(np.int64), owners, cohort.pairs, records["image_id"].tolist())
    if leaks and not work.settings.allow_leaks:
        raise LeakError.of(
            f"split {number} leaks; leave --splits.join-copies on, or give --allow-leaks:", leak_lines(leaks)
        )
    for line in leak_lines(leaks):
        work.say(f"  LEAK: {line}")


def splits_of(work: Work) -> list[Division]:
    """All splits of the tables, in their order."""
    return [work.value(split_name(number)) for number in work.settings.split_numbers()]


def split_name(number: int) -> str:
    """Name of the step that draws a split."""
    return f"split/{number}"
