"""Leaks to be planted in the recipes' tiny runs, each as a slip of the pen would make it.

Each changes one line of a recipe: who is given to the training, to its batches, to what ends it early, to what
calibrates it or sets its threshold, or which model it starts from.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest

from melano_tf.papers.bags import models as bags
from melano_tf.papers.bags.cohort import BagCohort
from melano_tf.papers.multimag import models as multimag
from melano_tf.papers.shell import Work
from melano_tf.papers.similarity import students
from melano_tf.papers.similarity.partition import Parts
from melano_tf.papers.spitzoid import source_model, target_model
from melano_tf.papers.spitzoid.cohort import SpitzoidSlides
from melano_tf.papers.weighting import best_cell, teachers
from melano_tf.papers.weighting import models as weighting
from melano_tf.papers.weighting.cohort import Division
from melano_tf.papers.zoome import models as zoome
from melano_tf.papers.zoome.cohort import ZoomeImages
from melano_tf.training.fed_cases import Fed, Noted


@dataclass(frozen=True)
class Plant:
    """One leak.

    Attributes:
        run: in which tiny run.
        redone: steps that are done anew.
        slip: makes it.
        refused: what the refusal says.
        audited: what the audit says of the training of the name before the colon; "": too much would be trained.
        more: options of the command.
    """

    run: str
    redone: tuple[str, ...]
    slip: Callable[[pytest.MonkeyPatch], None]
    refused: str
    audited: str
    more: tuple[str, ...] = ()


def choice_of(noted: tuple[Noted, ...]) -> Fed | None:
    """Whose batches these are that somebody is asked with to choose something; None: nothing is chosen by them."""
    owner: Any = getattr(noted[0], "__self__", None) if noted else None
    return owner if isinstance(owner, Fed) else None


def places_of(names: Any, wanted: Any) -> np.ndarray:
    """Places of these names."""
    return np.flatnonzero(np.isin(np.asarray(list(names), str), np.asarray(list(wanted), str)))


def spitzoid_trains_on_the_judged_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    own = SpitzoidSlides.patients

    def patients(self: SpitzoidSlides, part: str, fold: int | None) -> set[str]:
        return own(self, part, fold) | (own(self, "judge", fold) if part == "train" else set())

    monkeypatch.setattr(SpitzoidSlides, "patients", patients)


def spitzoid_feeds_the_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    own = source_model.region_batches

    def batches(settings, cohort, training, seed):
        judged = cohort.rows(cohort.tiles[cohort.tiles["region"] >= 0], cohort.patients("judge", None))
        return own(settings, cohort, pd.concat([judged, training]).head(len(training)).reset_index(drop=True), seed)

    monkeypatch.setattr(source_model, "region_batches", batches)


def spitzoid_starts_from_a_model_that_saw_the_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    own = target_model.source_of
    # Of the others none is another's: what stands on a source that was made anew is done again, too.
    monkeypatch.setattr(target_model, "source_of", lambda work, which, fold: own(work, which, 2 if fold == 1 else fold))


def multimag_stops_on_the_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multimag, "PARTS", ("training", "test", "validation"))


def multimag_trains_on_the_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multimag, "PARTS", ("test", "validation", "training"))


def zoome_trains_on_the_judged_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ZoomeImages.places

    def places(self: ZoomeImages, part: str, fold: int | None) -> np.ndarray:
        return np.arange(len(self.records)) if part == "train" else own(self, part, fold)

    monkeypatch.setattr(ZoomeImages, "places", places)


def zoome_trains_on_the_hold_out(monkeypatch: pytest.MonkeyPatch) -> None:
    own, calls = zoome.divided, []

    def divided(work, which, fold):
        rows, held, drawn = own(work, which, fold)
        calls.append((which, fold))
        return rows, held & (calls.count((which, fold)) > 1), drawn  # the training forgets it, the threshold does not

    monkeypatch.setattr(zoome, "divided", divided)


def zoome_decides_on_the_judged_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    own = zoome.decide

    def decide(settings, cohort, asked, which, rows, hold_out, *noted):
        choice = choice_of(noted)
        if choice is not None and choice.stem == "alexnet_standin-fold-1-decision":
            rows = places_of(cohort.records["image_id"], choice.sides.judged)
        return own(settings, cohort, asked, which, rows, hold_out, *noted)

    monkeypatch.setattr(zoome, "decide", decide)


def weighting_feeds_judged_images(monkeypatch: pytest.MonkeyPatch) -> None:
    own = weighting.training_batches

    def batches(settings, cohort, split, places):
        return own(settings, cohort, split, np.arange(len(cohort.records)))

    monkeypatch.setattr(weighting, "training_batches", batches)


def weighting_trains_on_a_judged_lesion(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Work.value

    def value(self: Work, step: str):
        found = own(self, step)
        if isinstance(found, Division):
            found = dataclasses.replace(found, train=np.sort([*found.train, found.judge[0]]))
        return found

    monkeypatch.setattr(Work, "value", value)


def weighting_chooses_gamma_on_judged_lesions(monkeypatch: pytest.MonkeyPatch) -> None:
    own = weighting.judge

    def judge(settings, cohort, answer, places, *noted):
        if (choice := choice_of(noted)) is not None:
            places = places_of(cohort.records["image_id"], choice.sides.judged)
        return own(settings, cohort, answer, places, *noted)

    monkeypatch.setattr(weighting, "judge", judge)


def ham10000_decides_on_a_judged_image(monkeypatch: pytest.MonkeyPatch) -> None:
    own = best_cell.answers

    def answers(work, network, places, *noted):
        if (choice := choice_of(noted)) is not None:
            judged = places_of(work.value("cohort").records["image_id"], choice.sides.judged)
            places = np.append(places[1:], judged[:1])
        return own(work, network, places, *noted)

    monkeypatch.setattr(best_cell, "answers", answers)


def ham10000_shows_a_teacher_the_judged_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    own = teachers.part_of

    def part_of(work, fold):
        part = own(work, fold)
        return dataclasses.replace(part, training=np.sort(np.append(part.training, part.judged)))

    monkeypatch.setattr(teachers, "part_of", part_of)


def similarity_feeds_the_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Parts, "rows", lambda self, split, part: np.arange(len(self.records)))


def similarity_shows_the_blind_teacher_all(monkeypatch: pytest.MonkeyPatch) -> None:
    own = students.cluster_images

    def cluster(work, name, places, *more):
        return own(work, name, np.arange(len(work.value("cohort").records)), *more)

    monkeypatch.setattr(students, "cluster_images", cluster)


def bags_trains_on_the_judged_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    own = BagCohort.places

    def places(self: BagCohort, part: str, fold: int | None) -> np.ndarray:
        return np.arange(len(self.fold)) if part == "train" else own(self, part, fold)

    monkeypatch.setattr(BagCohort, "places", places)


def bags_trains_on_the_hold_out(monkeypatch: pytest.MonkeyPatch) -> None:
    own = BagCohort.divided

    def divided(self: BagCohort, settings, fold):
        places, held, drawn = own(self, settings, fold)
        return np.sort(np.append(places, held)), held, drawn

    monkeypatch.setattr(BagCohort, "divided", divided)


def bags_fits_the_baseline_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    own = bags.fit_baseline
    monkeypatch.setattr(
        bags, "fit_baseline", lambda all_bags, classes, places, *more: own(all_bags, classes, None, *more)
    )


def bags_decides_on_a_judged_bag(monkeypatch: pytest.MonkeyPatch) -> None:
    own = bags.answers

    def answers(model, all_bags, places, dtype, forward, *noted):
        choice = choice_of(noted)
        if choice is not None and choice.stem == "clam-fold-1-decision":
            places = np.append(places[1:], places_of(all_bags.ids, choice.sides.judged)[:1])
        return own(model, all_bags, places, dtype, forward, *noted)

    monkeypatch.setattr(bags, "answers", answers)


def zoome_does_not_look_for_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melano_tf.papers.zoome.cohort.image_leaks", lambda *given: [])


ONE_CELL = (
    *("--cells", "flat-adam-fl-split-1", "--splits.count", "1", "--strategies", "none", "--log-weights", "0"),
    *("--tables", "2"),
)
PLANTS = {
    "spitzoid trains on the judged fold": Plant(
        *("spitzoid", ("source/seanet-standin-gmp/cohort-1",), spitzoid_trains_on_the_judged_fold),
        *("trained on and judged", "source-seanet-standin-gmp-cohort-1: OVERLAP: trained on and judged"),
    ),
    "spitzoid feeds the test part": Plant(
        *("spitzoid", ("source/final",), spitzoid_feeds_the_test_part),
        *("was fed to the training", "source: OVERLAP: trained on and judged"),
    ),
    "spitzoid starts from a model that saw the fold": Plant(
        *("spitzoid", ("target/bgas/cohort-1",), spitzoid_starts_from_a_model_that_saw_the_fold),
        *("cohort-2, which this stands on, has seen", "target-bgas-cohort-1: OVERLAP: seen by source-"),
    ),
    "multimag stops on the test part": Plant(
        *("multimag", ("train/melanoma-40x-standin",), multimag_stops_on_the_test_part),
        *("chose for the training", "melanoma-40x-standin: OVERLAP: chose and judged"),
    ),
    "multimag trains on the test part": Plant(
        *("multimag", ("train/nevi-standin",), multimag_trains_on_the_test_part),
        *("was fed to the training", "nevi-standin: OVERLAP: trained on and judged"),
    ),
    "zoome trains on the judged fold": Plant(
        *("zoome", ("train/kaur_standin/fold-1",), zoome_trains_on_the_judged_fold),
        *("trained on and judged", "kaur_standin-fold-1: OVERLAP: trained on and judged"),
    ),
    "zoome trains on the hold-out": Plant(
        *("zoome", ("train/kaur_standin/fold-2", "judge/kaur_standin-fold-2"), zoome_trains_on_the_hold_out),
        "kaur_standin-fold-2, which this stands on, has seen",
        "kaur_standin-fold-2-decision: OVERLAP: seen by kaur_standin-fold-2 and chose",
    ),
    "zoome decides on the judged fold": Plant(
        *("zoome", ("judge/alexnet_standin-fold-1",), zoome_decides_on_the_judged_fold),
        *("chose for the training", "alexnet_standin-fold-1-decision: OVERLAP: chose and judged"),
    ),
    "zoome does not look for leaks": Plant(
        *("zoome", (), zoome_does_not_look_for_leaks, "trained on and judged", "", ("--folds.by", "plain")),
    ),
    "weighting feeds judged images": Plant(
        *("weighting", ("train/flat-adam-cel-split-1",), weighting_feeds_judged_images),
        *("was fed to the training", "flat-adam-cel-split-1: OVERLAP: trained on and judged"),
    ),
    "weighting trains on a judged lesion": Plant(
        *("weighting", ("train/flat-adam-fl-split-2",), weighting_trains_on_a_judged_lesion),
        *("trained on and judged", "flat-adam-fl-split-2: OVERLAP: trained on and judged"),
    ),
    "weighting chooses gamma on judged lesions": Plant(
        *("weighting", (), weighting_chooses_gamma_on_judged_lesions),
        *("chose for the training", "gamma-flat-adam-split-1: OVERLAP: chose and judged"),
        *(("--gamma", "auto", *ONE_CELL),),
    ),
    "ham10000 decides on a judged image": Plant(
        *("ham10000", ("train/best-fold-1",), ham10000_decides_on_a_judged_image),
        *("chose for the training", "best-fold-1-decision: OVERLAP: chose and judged"),
    ),
    "ham10000 shows a teacher the judged fold": Plant(
        "ham10000",
        ("train/best-fold-1-teacher-1", "train/best-fold-1"),
        ham10000_shows_a_teacher_the_judged_fold,
        "best-fold-1-teacher-1, which this stands on, has seen",
        "best-fold-1: OVERLAP: seen by best-fold-1-teacher-1 and judged",
    ),
    "similarity feeds the test part": Plant(
        *("similarity", ("train/layers-1-lesion",), similarity_feeds_the_test_part),
        *("was fed to the training", "layers-1-lesion: OVERLAP: trained on and judged"),
    ),
    "similarity shows the blind teacher all": Plant(
        *("similarity", (), similarity_shows_the_blind_teacher_all, "trained on and judged", ""),
        ("--cluster.no-sees-test",),
    ),
    "bags trains on the judged fold": Plant(
        *("bags", ("train/gated/fold-1",), bags_trains_on_the_judged_fold),
        *("trained on and judged", "gated-fold-1: OVERLAP: trained on and judged"),
    ),
    "bags trains on the hold-out": Plant(
        *("bags", ("train/clam/fold-2",), bags_trains_on_the_hold_out),
        *("trained on and held out", "clam-fold-2: OVERLAP: trained on and chose"),
    ),
    "bags fits the baseline to all": Plant(
        *("bags", ("train/mean/fold-1",), bags_fits_the_baseline_to_all),
        *("was fed to the training", "mean-fold-1: OVERLAP: trained on and judged"),
    ),
    "bags decides on a judged bag": Plant(
        *("bags", ("judge/clam-fold-1",), bags_decides_on_a_judged_bag),
        *("chose for the training", "clam-fold-1-decision: OVERLAP: chose and judged"),
    ),
}
TOGETHER = {  # slips that do not undo each other are audited in one go
    "spitzoid": [name for name in PLANTS if name.startswith("spitzoid")],
    "multimag, stopping": ["multimag stops on the test part"],
    "multimag, training": ["multimag trains on the test part"],
    "zoome": [name for name in PLANTS if name.startswith(("zoome trains", "zoome decides"))],
    "weighting": ["weighting feeds judged images", "weighting trains on a judged lesion"],
    "weighting, gamma": ["weighting chooses gamma on judged lesions"],
    "ham10000": [name for name in PLANTS if name.startswith("ham10000")],
    "similarity": ["similarity feeds the test part"],
    "bags": [name for name in PLANTS if name.startswith("bags")],
}
