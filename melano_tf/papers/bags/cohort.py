"""The first steps: the table joined to its files (or phantoms drawn), and who trains and judges whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from melano_tf.papers.audit_cases import CASES, write_cases, write_copies
from melano_tf.papers.bags.settings import BagsSettings
from melano_tf.papers.shell import Looked, Work
from melano_tf.phantoms.feature_files import TRUTH, draw_features
from melano_tf.pipelines.feature_cohort import FeatureCohort, FileBags, read_feature_cohort
from melano_tf.reports.attention_maps import read_slides
from melano_tf.runs.input_checksums import file_checksums
from melano_tf.runs.settings_digest import digest, plain, seed_for
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.splits.folds import grouped_folds, plain_folds
from melano_tf.splits.inner_holdout import HoldOut, inner_holdout
from melano_tf.splits.leaks import Leak, LeakError, image_leaks, leak_lines
from melano_tf.splits.undivided_groups import alike_lines, joined_groups

COPIES = "identical"


@dataclass(frozen=True)
class FoundFeatures:
    """What the table and the folder hold.

    Attributes:
        cohort: rows and files.
        sums: SHA-256 of each row's file.
        truth: of phantoms {slide: whether each tile shows the class, bool (n,)}; else None.
        slides: slides to lay maps over, by name: path and mpp; empty where none are given.
    """

    cohort: FeatureCohort
    sums: Sequence[str]
    truth: Mapping[str, np.ndarray] | None
    slides: pd.DataFrame


@dataclass(frozen=True)
class BagCohort:
    """The bags and their folds.

    Attributes:
        bags: the bags, read from their files when they are asked for.
        groups: of each bag what must not be divided: its patient, joined with those whose files are the same.
        fold: of each bag, from 1, int64 (bags,).
        leaks: what stands on two sides of the folds (only with --allow-leaks).
    """

    bags: FileBags
    groups: Sequence[str]
    fold: np.ndarray
    leaks: Sequence[Leak]

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels in the order of the outputs."""
        return tuple(self.bags.classes)

    def places(self, part: str, fold: int | None) -> np.ndarray:
        """Bags of "train" or "judge" of a fold (1, 2, …); without one everything trains, and nothing is judged."""
        judged = self.fold == fold if fold is not None else np.zeros(len(self.fold), bool)
        return np.flatnonzero(judged if part == "judge" else ~judged)

    def names(self, places: np.ndarray) -> list[str]:
        """The bags at these places by their names."""
        return [self.bags.ids[place] for place in places]

    def sides(
        self,
        settings: BagsSettings,
        trains: np.ndarray,
        held: np.ndarray,
        judged: np.ndarray,
        after: Mapping[str, str] | None = None,
    ) -> Sides:
        """Who has which part in a training, or in a decision; `after` as of `Sides`."""
        return Sides(
            groups=dict(zip(self.bags.ids, self.groups, strict=True)),
            trains=self.names(trains),
            held_out=self.names(held),
            judged=self.names(judged),
            after=after or {},
            divided="--allow-leaks" if settings.allow_leaks else "",
        )

    def divided(self, settings: BagsSettings, fold: int | None) -> tuple[np.ndarray, np.ndarray, HoldOut]:
        """Bags that a model learns from, those of its hold-out, and how that was drawn; the same for every model."""
        places = self.places("train", fold)
        groups = [self.groups[place] for place in places]
        labels = [self.classes[label] for label in self.bags.labels[places]]
        seed = seed_for(settings.seed, "hold-out", str(fold))
        hold_out = inner_holdout(groups, labels, settings.folds.hold_out, seed)
        held = hold_out.mask(groups)
        return places[~held], places[held], hold_out


def read(work: Work) -> Looked:
    """The user's table and files, or phantoms drawn now; what was found is said and noted.

    Raises:
        InputError: as `pipelines.feature_cohort.read_feature_cohort` and `slides.slide_manifest.read_manifest`.
    """
    settings, run = work.settings, work.run
    folder, table, truth = settings.features, settings.table, None
    if folder is None:
        seed = seed_for(settings.seed, "phantoms")
        folder = run.only_folder("phantoms", digest([plain(settings.phantom), seed]))
        table = draw_features(folder, settings.phantom, seed)
        planted = pd.read_csv(folder / TRUTH).groupby("slide_id")["planted"]
        truth = {str(slide): own.to_numpy(bool) for slide, own in planted}
    classes = settings.classes or (settings.phantom.classes if truth else None)
    # All values are read once; a later session of the same files needs not look at them again.
    seen = _state(folder)
    unknown = run.record().get("values_checked") != seen
    cohort = read_feature_cohort(folder, table, unknown, settings.bag, classes)
    slides = read_slides(settings.slides)
    sums = _checksums(work, cohort)
    run.note(values_checked=seen, excluded={"unlabelled": list(cohort.unlabelled)})
    _say_found(work, cohort, folder)
    found = FoundFeatures(cohort, sums, truth, slides)
    return Looked(found, [cohort.table[["slide_id", "patient_id", "label"]].to_csv(index=False), list(sums)])


def divide(work: Work) -> Looked:
    """Divide the bags into folds; stop where something stands on two sides, unless that is allowed."""
    settings, run, found = work.settings, work.run, work.value("read")
    classes = settings.classes or (settings.phantom.classes if found.truth else None)
    bags = found.cohort.bags(settings.bag, classes)
    labels = [bags.classes[label] for label in bags.labels]
    copies = {COPIES: _copies(bags, found)}
    groups = joined_groups(list(bags.patients), copies[COPIES])
    seed = seed_for(settings.seed, "folds")
    if settings.folds.by == "patient":
        fold = grouped_folds(groups, labels, settings.folds.count, seed)
    else:
        fold = plain_folds(labels, settings.folds.count, seed)
    write_cases(work, _cases(bags, found))
    write_copies(work, [(bags.ids[a], bags.ids[b]) for a, b in copies[COPIES]], COPIES)
    leaks = image_leaks(fold, {"patient": list(bags.patients)}, copies, list(bags.ids))
    if leaks and not settings.allow_leaks:
        raise LeakError.of("the folds leak; choose --folds.by patient, or give --allow-leaks:", leak_lines(leaks))
    cohort = BagCohort(bags, groups, fold + 1, leaks)
    for number in range(1, settings.folds.count + 1):
        cohort.divided(settings, number)  # a hold-out that cannot be drawn is said before anything is trained
    sizes = np.bincount(fold)
    work.say(
        f"folds     {len(sizes)} of {sizes.min():,} to {sizes.max():,} bags, "
        + ("by patient" if settings.folds.by == "patient" else "by class alone")
    )
    if copies[COPIES]:
        work.say(f"  {len(copies[COPIES])} pairs of bags hold the same file twice; they stay in one fold")
    for line in leak_lines(leaks):
        work.say(f"  LEAK: {line}")
    kinds = {kind: sum(leak.kind == kind for leak in leaks) for kind in dict.fromkeys(leak.kind for leak in leaks)}
    named = {
        str(number): [bags.ids[place] for place in np.flatnonzero(fold + 1 == number)]
        for number in range(1, len(sizes) + 1)
    }
    run.note(folds=named, leaks=kinds)
    content = [list(bags.ids), fold.tolist(), list(groups), bags.labels.tolist(), list(bags.classes)]
    return Looked(cohort, [work.identity("read"), content])


def _state(folder: Path) -> str:
    """What the files of a folder are known by without reading them."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return digest([(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files])


def _checksums(work: Work, cohort: FeatureCohort) -> list[str]:
    """SHA-256 of each row's file."""
    files = [file.path for file in cohort.files]
    total = sum(path.stat().st_size for path in files)
    with tqdm(total=total, desc="checksums", unit="B", unit_scale=True, leave=False) as bar:
        sums = file_checksums(work.run.folder, files, bar.update)
    return [sums[str(path)] for path in files]


def _say_found(work: Work, cohort: FeatureCohort, folder: Path) -> None:
    table, files = cohort.table, cohort.files
    counts = ", ".join(f"{count:,} {label}" for label, count in table["label"].value_counts().items())
    where = folder if work.settings.features else "phantoms"
    work.say(f"features  {len(table):,} slides of {table['patient_id'].nunique():,} patients: {counts} ({where})")
    instances = sorted(file.instances for file in files)
    encoder = next((file.encoder for file in files if file.encoder), "not named")
    work.say(
        f"  {sum(instances):,} tiles, {instances[0]:,} to {instances[-1]:,} a slide, {files[0].width} numbers each; "
        f"encoder {encoder}; written as {', '.join(sorted({file.format for file in files}))}"
    )
    for note in cohort.notes:
        work.say(f"  {note}")
    for line in alike_lines({"patient": table["patient_id"]}):
        work.say(f"  note: {line}")
    if left := list(cohort.unlabelled):
        work.say(f"  left out, features without a label: {len(left)} ({', '.join(left[:5])}{', …' * (len(left) > 5)})")


def _cases(bags: FileBags, found: FoundFeatures) -> pd.DataFrame:
    """The bags as `write_cases` wants them; which of their files two of them share, `write_copies` keeps."""
    sums = {file.slide_id: own for file, own in zip(found.cohort.files, found.sums, strict=True)}
    contents = [digest([sums[file.slide_id] for file in files]) for files in bags.files]
    rows = {"case": list(bags.ids), "patient": list(bags.patients), "lesion": None, "content": contents}
    return pd.DataFrame(rows, columns=list(CASES)).astype(object)


def _copies(bags: FileBags, found: FoundFeatures) -> list[tuple[int, int]]:
    """Pairs of bags (places) that hold a file of the same bytes."""
    sums = {file.slide_id: own for file, own in zip(found.cohort.files, found.sums, strict=True)}
    first: dict[str, int] = {}
    pairs = set()
    for place, files in enumerate(bags.files):
        for file in files:
            other = first.setdefault(sums[file.slide_id], place)
            if other != place:
                pairs.add((other, place))
    return sorted(pairs)
