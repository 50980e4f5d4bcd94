"""Phantoms of the four diagnoses: where the nests lie, exact counts, and the same files for the same seed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melano_tf.errors import InputError
from melano_tf.phantoms.slides.diagnoses import DIAGNOSES, DiagnosisPhantomSettings, draw_diagnoses, plan_diagnoses
from melano_tf.phantoms.slides.melanocytes import KINDS, grow
from melano_tf.phantoms.slides.slide_appearance import draw_look
from melano_tf.phantoms.slides.tissue_ground import lay_skin
from melano_tf.slides.slide_manifest import read_manifest
from melano_tf.specs import load_spec

SMALL = DiagnosisPhantomSettings(patients=4, second_slide_share=0.0, width_um=(800, 820), height_um=(600, 620))


def grown(label: str, seed: int):
    look = draw_look(np.random.default_rng(seed), (2000, 2200), (1300, 1400))
    size = tuple(round(side / 4) * 4 for side in (look.width_um, look.height_um))
    skin = lay_skin(np.random.default_rng(seed), look, size)
    growth = grow(DIAGNOSES[label], skin, look, np.random.default_rng(seed))
    below = skin.at(skin.junction, growth.nests[:, 0], growth.nests[:, 1]) if len(growth.nests) else np.empty(0)
    return growth, below - (growth.nests[:, 2] if len(growth.nests) else 0)


@pytest.mark.parametrize("seed", range(3))
def test_nests_lie_where_the_diagnosis_says(seed: int) -> None:
    """By the distance of each nest's upper edge from the junction, µm (negative: it reaches the epidermis)."""
    junctional, intradermal, compound = (grown(label, seed)[1] for label in ("JN", "IN", "CN"))
    assert len(junctional) > 8 and (junctional < 0).all()
    assert len(intradermal) > 5 and (intradermal > -1).all()
    assert (compound < 0).sum() > 4 and (compound > 0).sum() > 4
    melanoma, _ = grown("MM", seed)
    assert not len(melanoma.nests) and (melanoma.kind == KINDS.index("pagetoid")).any()


@pytest.mark.parametrize("seed", range(3))
def test_nuclei_are_not_crowded_into_the_few_junctional_nests(seed: int) -> None:
    share = {}
    for label in ("JN", "IN"):
        growth, _ = grown(label, seed)
        share[label] = growth.nuclear_um2 / (float((growth.bodies > 0).sum()) * 4.0)
    assert share["JN"] == pytest.approx(share["IN"], rel=0.35)


def test_the_plan_deals_the_diagnoses_evenly() -> None:
    plans = plan_diagnoses(DiagnosisPhantomSettings(patients=22, second_slide_share=0.25), 1)
    first = pd.DataFrame([(plan.patient_id, plan.label, plan.slide) for plan in plans], columns=["p", "label", "n"])
    assert len(first) == 22 + round(22 * 0.25)
    counts = first[first["n"] == 0]["label"].value_counts()
    assert set(counts.index) == set(DIAGNOSES) == set(load_spec("multimag")["labels"])
    assert counts.max() - counts.min() <= 1
    assert (first.groupby("p")["label"].agg(set).map(len) == 1).all()
    with pytest.raises(InputError, match="patients 3"):
        plan_diagnoses(DiagnosisPhantomSettings(patients=3), 1)


def test_the_files_are_a_valid_cohort_and_are_not_drawn_twice(tmp_path: Path) -> None:
    path = draw_diagnoses(tmp_path, SMALL, seed=2, workers=1)
    manifest = read_manifest(path, load_spec("multimag"))
    assert sorted(manifest["label"]) == sorted(DIAGNOSES)
    dates = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.tiff")}
    draw_diagnoses(tmp_path, SMALL, seed=2, workers=1)
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.tiff")} == dates
    with pytest.raises(InputError, match="another seed"):
        draw_diagnoses(tmp_path, SMALL, seed=3, workers=1)
