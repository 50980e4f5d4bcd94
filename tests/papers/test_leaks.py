"""Leaks planted in each recipe are caught twice: by the training, which refuses, and by the audit of what lies there.

Each plant changes one line of a recipe, as a slip of the pen would: who is given to the training, to its batches, to
what ends it early or sets its threshold, or which model it starts from. One training of the shared tiny run is then
done anew. With every refusal switched off it is trained all the same, and the audit must find it in the files.
"""

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melano_tf.papers.multimag import models as multimag
from melano_tf.papers.shell import Work
from melano_tf.papers.similarity import students
from melano_tf.papers.similarity.partition import Parts
from melano_tf.papers.spitzoid import source_model, target_model
from melano_tf.papers.spitzoid.cohort import SpitzoidSlides
from melano_tf.papers.weighting import models as weighting
from melano_tf.papers.weighting.cohort import Division
from melano_tf.papers.zoome import models as zoome
from melano_tf.papers.zoome.cohort import ZoomeImages
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.training.fed_cases import Fed
from tests.papers import similarity_run, tiny, tiny_multimag, weighting_run, zoome_run
from tests.papers.tiny import Finished, TinyRun

Inside = Callable[..., Finished]
RUNS = {
    "spitzoid": ("tiny_run", (*tiny.TINY, *tiny.EVERYTHING)),
    "multimag": ("multimag_run", (*tiny_multimag.TINY, *tiny_multimag.EVERYTHING)),
    "zoome": ("tiny_zoome", (*zoome_run.ZOOME, *zoome_run.ALL_OF_ZOOME)),
    "weighting": ("tiny_weighting", weighting_run.WEIGHTING),
    "similarity": ("tiny_similarity", similarity_run.SIMILARITY),
}


@dataclass(frozen=True)
class Plant:
    """One leak.

    Attributes:
        recipe: in whose tiny run.
        redone: steps that are done anew.
        slip: makes it.
        refused: what the refusal says.
        audited: what the audit says of the training of the name before the colon; "": too much would be trained.
        more: options of the command.
    """

    recipe: str
    redone: tuple[str, ...]
    slip: Callable[[pytest.MonkeyPatch], None]
    refused: str
    audited: str
    more: tuple[str, ...] = ()


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
    monkeypatch.setattr(target_model, "source_of", lambda work, which, fold: own(work, which, 2))


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


def similarity_feeds_the_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Parts, "rows", lambda self, split, part: np.arange(len(self.records)))


def similarity_shows_the_blind_teacher_all(monkeypatch: pytest.MonkeyPatch) -> None:
    own = students.cluster_images

    def cluster(work, name, places, *more):
        return own(work, name, np.arange(len(work.value("cohort").records)), *more)

    monkeypatch.setattr(students, "cluster_images", cluster)


def zoome_does_not_look_for_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melano_tf.papers.zoome.cohort.image_leaks", lambda *given: [])


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
    "similarity feeds the test part": Plant(
        *("similarity", ("train/layers-1-lesion",), similarity_feeds_the_test_part),
        *("was fed to the training", "layers-1-lesion: OVERLAP: trained on and judged"),
    ),
    "similarity shows the blind teacher all": Plant(
        *("similarity", (), similarity_shows_the_blind_teacher_all, "trained on and judged", ""),
        ("--cluster.no-sees-test",),
    ),
}
TOGETHER = {  # slips that do not undo each other are audited in one go
    "spitzoid": [name for name in PLANTS if name.startswith("spitzoid")],
    "multimag, stopping": ["multimag stops on the test part"],
    "multimag, training": ["multimag trains on the test part"],
    "zoome": [name for name in PLANTS if name.startswith("zoome trains")],
    "weighting": [name for name in PLANTS if name.startswith("weighting")],
    "similarity": ["similarity feeds the test part"],
}


def again(shared: TinyRun, folder: Path, plants: list[Plant]) -> tuple[str, ...]:
    """A copy of a recipe's tiny run whose planted steps are to be done anew; the command."""
    shutil.copytree(shared.folder, folder)
    for step in (step for plant in plants for step in plant.redone):
        (folder / "steps" / f"{step}.json").unlink()
    own, more = RUNS[plants[0].recipe][1], plants[0].more
    return (plants[0].recipe, "--out", str(folder), *own, *more, "--figures", "none")  # which tell nothing of leaks


def refused(shared: TinyRun, folder: Path, plant: Plant, inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plant's training is refused in words that say who, and nothing is left of it."""
    command = again(shared, folder, [plant])
    plant.slip(monkeypatch)
    done = inside(*command)
    assert done.code == 2 and plant.refused in done.errors, done.errors
    assert "Traceback" not in done.errors
    for step in plant.redone[-1:]:
        assert not (folder / "steps" / f"{step}.json").exists()


def audited(
    shared: TinyRun, folder: Path, plants: list[Plant], inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no refusal left the trainings are done, and the audit finds what they were fed."""
    command = again(shared, folder, plants)
    with monkeypatch.context() as silent:
        silent.setattr(Sides, "__post_init__", lambda self: None)
        silent.setattr(Sides, "check_after", lambda self, *seen: None)
        silent.setattr(Fed, "check", lambda self, role, name: None)
        for plant in plants:
            plant.slip(silent)
        done = inside(*command)
    assert done.code == 0, done.errors
    found = inside("audit", str(folder))
    assert found.code == 1, found.shown
    for plant in plants:
        stem, _, words = plant.audited.partition(": ")
        [line] = [line for line in found.shown.splitlines() if line.startswith(f"{stem}: ")]
        assert words in line, line
        assert words in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in PLANTS if name.startswith("spitzoid")])
def test_spitzoid_refuses(name, tiny_run, tmp_path, inside, monkeypatch) -> None:
    refused(tiny_run, tmp_path / "run", PLANTS[name], inside, monkeypatch)


@pytest.mark.parametrize("names", [names for key, names in TOGETHER.items() if key.startswith("spitzoid")])
def test_spitzoid_is_audited(names, tiny_run, tmp_path, inside, monkeypatch) -> None:
    audited(tiny_run, tmp_path / "run", [PLANTS[name] for name in names], inside, monkeypatch)


@pytest.mark.parametrize("name", [name for name in PLANTS if name.startswith("multimag")])
def test_multimag_refuses(name, multimag_run, tmp_path, inside, monkeypatch) -> None:
    refused(multimag_run, tmp_path / "run", PLANTS[name], inside, monkeypatch)


@pytest.mark.parametrize("names", [names for key, names in TOGETHER.items() if key.startswith("multimag")])
def test_multimag_is_audited(names, multimag_run, tmp_path, inside, monkeypatch) -> None:
    audited(multimag_run, tmp_path / "run", [PLANTS[name] for name in names], inside, monkeypatch)


@pytest.mark.parametrize("name", [name for name in PLANTS if name.startswith("zoome")])
def test_zoome_refuses(name, tiny_zoome, tmp_path, inside, monkeypatch) -> None:
    refused(tiny_zoome, tmp_path / "run", PLANTS[name], inside, monkeypatch)


@pytest.mark.parametrize("names", [names for key, names in TOGETHER.items() if key.startswith("zoome")])
def test_zoome_is_audited(names, tiny_zoome, tmp_path, inside, monkeypatch) -> None:
    audited(tiny_zoome, tmp_path / "run", [PLANTS[name] for name in names], inside, monkeypatch)


@pytest.mark.parametrize("name", [name for name in PLANTS if name.startswith("weighting")])
def test_weighting_refuses(name, tiny_weighting, tmp_path, inside, monkeypatch) -> None:
    refused(tiny_weighting, tmp_path / "run", PLANTS[name], inside, monkeypatch)


@pytest.mark.parametrize("names", [names for key, names in TOGETHER.items() if key.startswith("weighting")])
def test_weighting_is_audited(names, tiny_weighting, tmp_path, inside, monkeypatch) -> None:
    audited(tiny_weighting, tmp_path / "run", [PLANTS[name] for name in names], inside, monkeypatch)


@pytest.mark.parametrize("name", [name for name in PLANTS if name.startswith("similarity")])
def test_similarity_refuses(name, tiny_similarity, tmp_path, inside, monkeypatch) -> None:
    refused(tiny_similarity, tmp_path / "run", PLANTS[name], inside, monkeypatch)


@pytest.mark.parametrize("names", [names for key, names in TOGETHER.items() if key.startswith("similarity")])
def test_similarity_is_audited(names, tiny_similarity, tmp_path, inside, monkeypatch) -> None:
    audited(tiny_similarity, tmp_path / "run", [PLANTS[name] for name in names], inside, monkeypatch)
