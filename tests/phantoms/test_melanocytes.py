"""What tells the phantoms' diagnoses apart, architecture and nuclei, and what must not, colour and amounts."""

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from melano_tf.phantoms.slides.cells import library
from melano_tf.phantoms.slides.melanocytes import BENIGN, KINDS, MALIGNANT, Growth, Lesion, grow
from melano_tf.phantoms.slides.scene import compose
from melano_tf.phantoms.slides.slide_appearance import Look, Stain, draw_look, draw_stain
from melano_tf.phantoms.slides.slide_drawing import PhantomSettings, draw_cohort, read_truth
from melano_tf.phantoms.slides.tissue_ground import Skin, lay_skin
from melano_tf.slides.slide import Slide

PATIENTS = 24
SIZE = ((900.0, 1100.0), (700.0, 900.0))
BAND = 1.96 * ((PATIENTS + 1) / (12 * (PATIENTS // 2) ** 2)) ** 0.5
"""Half the width of the interval that holds 95 % of AUCs by chance (variance of the Mann-Whitney statistic)."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    settings = PhantomSettings(PATIENTS, 0.5, 0.0, *SIZE)
    path = draw_cohort(tmp_path_factory.mktemp("cohort"), settings, seed=8, workers=1)
    frame = pd.read_csv(path)
    return frame.assign(path=[path.parent / name for name in frame["path"]], y=(frame["label"] == "malignant") * 1)


def _histogram(rgb: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Colour histogram, mean and spread of the tissue in a picture; None where there is hardly any."""
    tissue = rgb.reshape(-1, 3)[255 - rgb[..., 1].ravel() > 30]
    if len(tissue) < 0.3 * rgb.size / 3:
        return None
    bins = [np.histogram(tissue[:, c], 12, (0, 256))[0] / len(tissue) for c in range(3)]
    return np.concatenate([*bins, tissue.mean(axis=0) / 255, tissue.std(axis=0) / 255])


def _tiles(slide: Slide, field_um: int, px: int) -> Iterator[NDArray[np.float64]]:
    step = field_um / slide.mpp[0]
    for y in np.arange(0, slide.size[1] - step, step):
        for x in np.arange(0, slide.size[0] - step, step):
            features = _histogram(slide.read(x, y, px, field_um / px))
            if features is not None:
                yield features


def _features(cohort: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    thumbnails, tiles = [], []
    for path in cohort["path"]:
        with Slide(path) as slide:
            thumbnail = slide.thumbnail(16.0)
            whole = _histogram(thumbnail)
            assert whole is not None
            thumbnails.append(np.concatenate([whole, [thumbnail.shape[0] / 100, thumbnail.shape[1] / 100]]))
            tiles.append(np.mean(list(_tiles(slide, 128, 48)), axis=0))
    return {"thumbnails": np.array(thumbnails), "tiles": np.array(tiles)}


def _auc(features: NDArray[np.float64], cohort: pd.DataFrame) -> float:
    """Leave one patient out, logistic regression."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    probability = cross_val_predict(
        model, features, cohort["y"], groups=cohort["patient_id"], cv=LeaveOneGroupOut(), method="predict_proba"
    )
    return float(roc_auc_score(cohort["y"], probability[:, 1]))


def test_colour_does_not_give_the_diagnosis_away(cohort: pd.DataFrame) -> None:
    for name, features in _features(cohort).items():
        # Leaving one out is pessimistic under chance, so that only an AUC above the band is a leak.
        assert _auc(features, cohort) < 0.5 + BAND, name
        # The same classifier does find a leak: mean colours (after 36 bins) 20 grey levels darker in one class.
        leaking = features.copy()
        leaking[cohort["y"] == 1, 36:39] -= 20 / 255
        assert _auc(leaking, cohort) > 0.5 + BAND, name


def test_the_truth_tells_the_diagnoses_apart(cohort: pd.DataFrame) -> None:
    spread, unevenness = [], []
    for path in cohort["path"]:
        truth = read_truth(path.with_name(f"{path.stem}.truth.npz"))
        x, y, size = truth.cells.T
        apart = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(len(x))
        nearest = apart.min(axis=1)
        spread.append(size.max() / np.median(size))
        unevenness.append(nearest.std() / nearest.mean())
    assert roc_auc_score(cohort["y"], spread) == 1.0
    assert roc_auc_score(cohort["y"], unevenness) == 1.0


def _skin(seed: int) -> tuple[Look, Skin]:
    look = draw_look(np.random.default_rng(seed), *SIZE)
    width, height = (round(side / 4) * 4 for side in (look.width_um, look.height_um))
    return look, lay_skin(np.random.default_rng(seed), look, (width, height))


def _grow(lesion: Lesion, seed: int) -> tuple[Look, Skin, Growth]:
    look, skin = _skin(seed)
    return look, skin, grow(lesion, skin, look, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(6))
def test_both_diagnoses_have_the_same_amounts(seed: int) -> None:
    areas = []
    for lesion in (BENIGN, MALIGNANT):
        look, _, growth = _grow(lesion, seed)
        territory = growth.territory.sum() * 4.0
        bodies = growth.bodies > 0
        clefts = (growth.clefts > 0) & ~bodies
        assert growth.nuclear_um2 / territory == pytest.approx(look.nuclear_share, rel=0.02)
        assert bodies.sum() * 4.0 / territory == pytest.approx(look.body_share, rel=0.08)
        areas.append((territory, growth.nuclear_um2, bodies.sum(), clefts.sum()))
    np.testing.assert_allclose(areas[0], areas[1], rtol=0.08)


def test_the_same_skin_looks_alike_with_either_lesion() -> None:
    """Pairs that differ in the diagnosis only: their mean colours differ far less than patients' do."""
    means: dict[str, list[NDArray[np.float64]]] = {"benign": [], "malignant": []}
    for seed in range(8):
        look, stain = draw_look(np.random.default_rng(seed), *SIZE), draw_stain(np.random.default_rng(seed))
        for name, lesion in (("benign", BENIGN), ("malignant", MALIGNANT)):
            canvas = compose(look, lesion, library(8), np.random.SeedSequence(seed)).canvas
            small = cv2.resize(stain.colour(canvas), None, fx=1 / 16, fy=1 / 16, interpolation=cv2.INTER_AREA)
            means[name].append(small[255 - small[..., 1] > 30].mean(axis=0))
    benign, malignant = np.array(means["benign"]), np.array(means["malignant"])
    assert (np.abs((malignant - benign).mean(axis=0)) < 0.25 * benign.std(axis=0)).all()


def test_benign_cells_lie_in_nests_and_get_smaller_with_depth() -> None:
    _, skin, growth = _grow(BENIGN, 1)
    deep = skin.at(skin.under_junction, growth.x, growth.y)
    upper, lower = growth.nucleus[deep < 40], growth.nucleus[deep > np.quantile(deep, 0.85)]
    assert np.median(lower) < 0.85 * np.median(upper)
    off = np.hypot(growth.x[:, None] - growth.nests[:, 0], growth.y[:, None] - growth.nests[:, 1]) / growth.nests[:, 2]
    assert (off.min(axis=1) < 1.35).all()
    gaps = np.hypot(*(growth.nests[:, None, :2] - growth.nests[:, :2]).T) - growth.nests[:, 2] - growth.nests[:, 2:3]
    assert (gaps + 1e9 * np.eye(len(gaps))).min() > 2


def test_malignant_cells_are_disordered_and_climb_the_epidermis() -> None:
    _, skin, growth = _grow(MALIGNANT, 1)
    kinds = {name: growth.kind == index for index, name in enumerate(KINDS)}
    assert not kinds["nest"].any() and len(growth.nests) == 0
    assert kinds["mitosis"].sum() >= 1
    assert kinds["pagetoid"].sum() >= 3
    assert (skin.at(skin.under_junction, growth.x[kinds["pagetoid"]], growth.y[kinds["pagetoid"]]) < 0).all()
    assert np.log(growth.nucleus).std() > 0.2
    assert growth.wild.mean() > 0.7


def test_junctional_and_intradermal_lesions_can_be_described_too() -> None:
    _, skin, junctional = _grow(replace(BENIGN, epidermal=(1.0, 1.0)), 2)
    assert np.abs(skin.at(skin.junction, junctional.x, junctional.y)).max() < 60
    _, skin, dermal = _grow(replace(BENIGN, epidermal=(0.0, 0.0)), 2)
    assert skin.at(skin.under_junction, dermal.x, dermal.y).min() > -25
    assert np.median(skin.at(skin.under_junction, dermal.x, dermal.y)) > 40


def test_stain_follows_beer_lambert() -> None:
    vectors = ((0.6, 0.7, 0.4), (0.1, 0.9, 0.4), (0.4, 0.6, 0.8))
    stain = Stain(vectors, (240, 241, 242))
    stains = np.array([[[0, 0, 0], [100, 0, 0], [50, 80, 0], [0, 20, 120]]], np.uint8)
    expected = np.array([240, 241, 242]) * np.exp(-(stains[0] / 100) @ np.array(vectors))
    np.testing.assert_allclose(stain.colour(stains)[0, :, ::-1], expected, atol=2.5)


def test_stains_vary_but_stay_pink() -> None:
    drawn = [draw_stain(np.random.default_rng(seed)) for seed in range(40)]
    pink = np.array([stain.colour(np.full((1, 1, 3), (5, 70, 0), np.uint8))[0, 0, ::-1] for stain in drawn])
    assert pink.std(axis=0)[1] > 8
    assert (pink[:, 0] > pink[:, 1]).all()
