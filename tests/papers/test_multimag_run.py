"""The multimag recipe from end to end on phantom slides: one tiny run, looked at from all sides."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from melano_tf.evaluation.slide_scores import fuse
from melano_tf.papers.multimag.models import TaskTraining
from melano_tf.papers.multimag.settings import EvaluationSettings
from melano_tf.papers.multimag.tables import judged_slides
from melano_tf.papers.multimag.tasks import Task
from melano_tf.runs.atomic_files import file_sha256, read_json
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.predictions import probability_columns
from melano_tf.runs.sidecar import Sidecar
from melano_tf.slides.slide import Slide
from tests.papers.tiny import Finished, TinyRun, command, weights_of
from tests.papers.tiny_multimag import EVERYTHING, TINY

PUBLISHED_CELLS = {1: 4, 2: 8, 3: 24, 4: 24}
NAMES = ("4x", "10x", "20x", "40x")
BACKBONES = ("standin_residual", "standin")
Inside = Callable[..., Finished]


@pytest.fixture
def copy(multimag_run: TinyRun, tmp_path: Path) -> Path:
    """A copy of the shared run that a test may change."""
    return Path(shutil.copytree(multimag_run.folder, tmp_path / "run"))


@pytest.fixture(scope="module")
def answers() -> dict[str, Path]:
    """Folders of `predict`'s answers, by the model that was asked."""
    return {}


@pytest.fixture
def asked(
    multimag_run: TinyRun, answers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, inside: Inside
) -> Callable[[str], tuple[str, Path]]:
    """Have a model judge the last test slide of its own predictions, once for all who look at the answer: the slide's
    name, and the answer's folder."""

    def ask(model: str) -> tuple[str, Path]:
        rows = pd.read_parquet(multimag_run.folder / "predictions" / f"{model}.parquet")
        slide_id = rows.loc[rows["part"] == "test", "slide_id"].iloc[-1]
        if model not in answers:
            [slide] = (multimag_run.folder / "phantoms").rglob(f"{slide_id}.tiff")
            path, out = multimag_run.folder / "models" / f"{model}.keras", tmp_path_factory.mktemp("answer")
            done = inside("predict", "--model", str(path), "--input", str(slide), "--out", str(out))
            assert done.code == 0, done.errors
            answers[model] = out
        return slide_id, answers[model]

    return ask


def test_it_says_last_how_each_magnification_tells_slides_apart(multimag_run):
    lines = multimag_run.first.shown.splitlines()[-14:]
    assert sum(line.startswith("test      melanoma by slide") and "interval" in line for line in lines) == 4


@pytest.mark.parametrize("number", PUBLISHED_CELLS)
@pytest.mark.parametrize("unit", ["", "-slides"])
def test_each_table_stands_beside_the_published_one(multimag_run, number, unit):
    table = pd.read_csv(multimag_run.folder / "tables" / f"table{number}{unit}.csv")
    compared = table[table["published"].notna()]
    assert len(compared) == PUBLISHED_CELLS[number]
    assert compared["cohorts"].notna().all()
    assert set(table["row"]) == {"F1S", "SN", "SPC", "AUC", "PPV"}
    text = (multimag_run.folder / "tables" / f"table{number}{unit}.md").read_text()
    assert text in multimag_run.first.shown
    assert "PHANTOM" in text


def test_table_1_has_all_four_magnifications_in_the_papers_order(multimag_run):
    table = pd.read_csv(multimag_run.folder / "tables" / "table1.csv")
    expected = [f"{name} {network}" for name in NAMES for network in ("ResNet50", "Vgg19")]
    assert list(dict.fromkeys(table["column"])) == expected


def test_aggregation_and_fusion_have_tables_of_their_own(multimag_run):
    folder = multimag_run.folder / "tables"
    ways = pd.read_csv(folder / "aggregation.csv")
    assert set(ways["column"]) == {"mean probability", "majority of tiles", "mean of the top tiles"}
    assert len(ways) == 3 * 2 * 2 * (4 + 1)
    fusion = pd.read_csv(folder / "fusion.csv")
    assert list(dict.fromkeys(fusion["column"])) == [*NAMES, "mean of probabilities", "mean of log-odds"]


def test_no_patient_stands_in_two_parts(multimag_run):
    record = read_json(multimag_run.folder / "run.json")
    parts = {name: set(patients) for name, patients in record["parts"].items()}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 12
    for path in (multimag_run.folder / "predictions").glob("*.parquet"):
        rows = pd.read_parquet(path)
        for part, own in rows.groupby("part"):
            assert part in ("validation", "test")
            assert set(own["patient_id"]) <= parts[part]


def test_quotas_hold_over_all_parts(multimag_run):
    predictions = multimag_run.folder / "predictions"
    for name, most in zip(NAMES, (40, 60, 80, 120), strict=True):
        rows = pd.read_parquet(predictions / f"melanoma-{name}-standin.parquet")
        assert 0 < rows["quota"].sum() <= most
        assert rows["quota"].sum() < len(rows) or name == "4x", "beyond the quota every tile is predicted too"
    mixed = pd.read_parquet(predictions / "melanoma-mixed-standin.parquet")
    assert set(mixed["magnification"]) >= {"10x", "20x", "40x"}
    nevi = pd.read_parquet(predictions / "nevi-standin.parquet")
    assert set(nevi["label"]) == {"IN", "CN", "JN"}
    np.testing.assert_allclose(nevi[["p_IN", "p_CN", "p_JN"]].sum(axis=1), 1, atol=1e-5)


def test_every_model_stands_with_its_sidecar_and_names_its_siblings(multimag_run):
    assert len(weights_of(multimag_run.folder)) == 2 * (4 + 1 + 3 + 1)
    card = Sidecar.read(multimag_run.folder / "models" / "melanoma-10x-standin.keras")
    assert card.kind == "multimag"
    assert card.classes == ("nevus", "MM")
    assert set(card.companions) == {"melanoma-4x", "melanoma-20x", "melanoma-40x"}
    assert all((multimag_run.folder / "models" / name).is_file() for name in card.companions.values())
    own = weights_of(multimag_run.folder)
    for name in NAMES:  # each knows all others, also those that were trained after it
        for backbone in ("standin", "standin_residual"):
            told = Sidecar.read(multimag_run.folder / "models" / f"melanoma-{name}-{backbone}.keras")
            assert told.companion_weights == {role: own[file] for role, file in told.companions.items()}
    assert card.preprocessing["magnifications"] == ["10x"] and card.threshold == 0.5
    nevi = Sidecar.read(multimag_run.folder / "models" / "nevi-standin.keras")
    assert nevi.companion_weights == {}
    assert nevi.threshold is None and nevi.threshold_from == "none: the most probable class is called"


def test_the_history_says_which_epoch_was_kept(multimag_run):
    for path in (multimag_run.folder / "history").glob("*.csv"):
        history = pd.read_csv(path)
        assert history["kept"].sum() == 1
        assert history.loc[history["kept"] == 1, "validation_loss"].item() == history["validation_loss"].min()


def test_the_record_is_complete(multimag_run):
    record = read_json(multimag_run.folder / "run.json")
    assert record["recipe"] == "multimag"
    assert len(record["durations"]) == 1 + 2 * (4 + 1 + 3 + 1)
    inputs = read_json(multimag_run.folder / "inputs.json")
    slide = next(path for path in inputs if path.endswith(".tiff"))
    assert inputs[slide]["sha256"] == file_sha256(Path(slide))
    assert not (multimag_run.folder / "work").exists()


def test_figures_are_pictures_with_something_in_them(multimag_run):
    pictures = sorted((multimag_run.folder / "figures").glob("*.png"))
    names = {path.stem for path in pictures}
    assert {"figure1", "faithfulness-standin"} <= names
    assert any(name.startswith("figure2-") for name in names)
    for path in pictures:
        image = cv2.imread(str(path))
        assert min(image.shape[:2]) > 200
        assert image.std() > 20


def test_the_maps_are_measured_beside_the_baselines(multimag_run):
    table = pd.read_csv(multimag_run.folder / "tables" / "faithfulness-standin_residual.csv")
    assert {"CAM", "Grad-CAM", "Grad-CAM++", "random map", "centre", "tissue mask"} <= set(table["column"])
    assert "CAM, weights randomised" in set(table["column"])
    assert set(table["row"]) == {"energy inside the cells", "pointing game", "deletion area", "insertion area"}
    values = table.loc[table["ours"].notna(), "ours"]
    assert values.between(0, 1).all()


def test_what_is_not_asked_for_this_time_still_stands(copy, inside):
    for arguments in (("--tables", "2", "--figures", "none", "--steps", "tables"), ("--steps", "slides")):
        asked = inside("multimag", "--out", str(copy), *TINY, *EVERYTHING, *arguments)
        assert asked.code == 0 and "did 0 steps" in asked.shown, asked.errors
        standing = Standing(copy, read_json(copy / "run.json"))
        assert standing.holds(copy / "tables" / "table1.csv") and standing.holds(copy / "figures" / "figure1.png")


def test_a_threshold_is_told_to_every_model_and_trains_nothing(copy, inside):
    before = weights_of(copy)
    asked = inside("multimag", "--out", str(copy), *TINY, "--steps", "train", "--evaluation.threshold", "0.3")
    assert asked.code == 0 and "did 0 steps" in asked.shown, asked.errors
    cards = {name: Sidecar.read(copy / "models" / name) for name in before}
    asked_for = {name for name in before if name.startswith("melanoma-mixed") or "x-" in name}
    assert {name for name in before if cards[name].threshold == 0.3} == asked_for and len(asked_for) == 10
    assert weights_of(copy) == before


def test_another_choice_of_tables_cuts_what_is_missing_and_retrains_nothing(copy, inside, tmp_path):
    fresh = tmp_path / "fresh"
    manifest = next((copy / "phantoms").rglob("manifest.csv"))
    command = (
        "multimag",
        "--out",
        str(fresh),
        *TINY,
        "--preset",
        "demo",
        "--slides",
        str(manifest),
        "--figures",
        "none",
    )
    done = inside(*command, "--tables", "4", "--steps", "tiles")
    assert done.code == 0, done.errors
    counts = next(line for line in done.shown.splitlines() if line.startswith("tiles "))
    assert counts.endswith("0 at 4x, 0 at 10x, 0 at 20x, " + counts.split(", ")[-1])
    slides = pd.read_csv(manifest).set_index("slide_id")
    tiles = pd.read_parquet(fresh / "tiles" / "tiles.parquet")
    parts = {patient: part for part, patients in read_json(fresh / "run.json")["parts"].items() for patient in patients}
    assert set(slides.loc[tiles["slide_id"].unique(), "label"]) == {"IN", "CN", "JN"}
    inside_outlines = tiles.groupby(tiles["patient_id"].map(parts))["outlined"].mean()
    assert inside_outlines["training"] == 1 and inside_outlines[["validation", "test"]].max() < 1
    assert parts == {
        patient: part for part, patients in read_json(copy / "run.json")["parts"].items() for patient in patients
    }
    for tables, words in (("4", "finished"), ("1", "to do: more is wanted")):
        shown = inside(*command, "--tables", tables, "--steps", "tiles", "--plan").shown
        assert f"{'tiles':<44} {words}" in shown, shown
    records = {path.name: path.read_bytes() for path in (fresh / "tiles").glob("*.tfrecord")}
    assert inside(*command, "--tables", "1", "--steps", "tiles").code == 0
    for name, content in records.items():
        later = (fresh / "tiles" / name).read_bytes()
        assert later.startswith(content) and len(later) > len(content)
    planned = inside(*command, "--tables", "4", "--steps", "tiles", "--plan")
    assert "0 steps would be done" in planned.shown
    again = inside(*command, "--tables", "4", "--steps", "tiles")
    assert "did 0 steps" in again.shown


def test_predict_judges_every_magnification_and_draws_a_map_of_each(multimag_run, tmp_path, inside):
    predictions = multimag_run.folder / "predictions"
    rows = pd.read_parquet(predictions / "melanoma-4x-standin.parquet")
    slide_id = rows.loc[rows["part"] == "test", "slide_id"].iloc[0]
    [slide] = (multimag_run.folder / "phantoms").rglob(f"{slide_id}.tiff")
    model = multimag_run.folder / "models" / "melanoma-20x-standin.keras"
    done = inside("predict", "--model", str(model), "--input", str(slide), "--out", str(tmp_path))
    assert done.code == 0, done.errors
    answer = json.loads((tmp_path / "prediction.json").read_text())
    assert sum(answer["probabilities"].values()) == pytest.approx(1.0)
    found = answer["evidence"]["magnifications"]
    assert list(found) == list(NAMES)
    scores = [[one["probabilities"]["MM"] for one in found.values()]]
    assert answer["probabilities"]["MM"] == pytest.approx(fuse(scores, "mean")[0])
    for name in NAMES:
        assert (tmp_path / f"{slide_id}-{name}.png").stat().st_size > 10_000
        assert found[name]["model"] == f"melanoma-{name}-standin.keras"
    tiles = pd.read_csv(tmp_path / "tiles.csv")
    assert len(tiles) == answer["evidence"]["tissue_tiles"] > 0
    outlines = json.loads((tmp_path / "tiles.geojson").read_text())
    assert len(outlines["features"]) == len(tiles)
    assert (tmp_path / "figure2.png").is_file()


@pytest.mark.parametrize("model", ["melanoma-40x-standin", "melanoma-mixed-standin_residual", "nevi-standin"])
def test_the_slide_tables_judge_a_slide_as_predict_does(multimag_run, asked, model):
    """By all its tiles, although the quota left a few of them and its outlines hold a part of its tissue."""
    rows = pd.read_parquet(multimag_run.folder / "predictions" / f"{model}.parquet")
    rows = rows[rows["part"] == "test"]
    slide_id, folder = asked(model)
    own = rows[rows["slide_id"] == slide_id]
    columns = probability_columns(rows)
    path = multimag_run.folder / "models" / f"{model}.keras"
    answer = json.loads((folder / "prediction.json").read_text())
    found = answer["evidence"]["magnifications"]
    by_name = own.groupby("magnification")
    classes = tuple((name, (name,)) for name in answer["probabilities"])
    one = TaskTraining(Task("", 0, "", classes, (), {}), "", path, rows)
    table = judged_slides(one, EvaluationSettings()).set_index("slide_id").loc[slide_id]
    for name, tiles in by_name:
        assert len(tiles) == found[name]["tiles"] > tiles["quota"].sum() or name == "4x"
        shown = list(found[name]["probabilities"].values())
        np.testing.assert_allclose(tiles[columns].mean().to_numpy(), shown, atol=1e-6)
    if set(found) == set(by_name.groups):
        shown = list(answer["probabilities"].values())
    else:  # a model of one magnification: predict asks its siblings too
        shown = list(found[own["magnification"].iloc[0]]["probabilities"].values())
    names = columns if len(columns) > 2 else ["p_MM"]
    np.testing.assert_allclose(table[names].to_numpy(float), shown[-len(names) :], atol=1e-6)


def test_predict_gives_the_runs_own_numbers_for_the_same_tiles(multimag_run, asked):
    tested = pd.read_parquet(multimag_run.folder / "predictions" / "melanoma-40x-standin.parquet")
    tested = tested[tested["part"] == "test"]
    slide_id, folder = asked("melanoma-40x-standin")
    places = pd.read_parquet(multimag_run.folder / "tiles" / "tiles.parquet")[["slide_id", "tile", "x", "y"]]
    own = tested[tested["slide_id"] == slide_id].merge(places, on=["slide_id", "tile"])
    shown = pd.read_csv(folder / "tiles.csv")
    shown = shown[shown["magnification"] == "40x"]
    both = own.merge(shown, on=["x", "y"], suffixes=("_run", "_shown"))
    assert len(both) == len(own) > 0
    np.testing.assert_allclose(both["p_MM"], both["p1"], atol=1e-5)


def test_predict_with_the_three_nevi(multimag_run, tmp_path):
    slide = next(iter(sorted((multimag_run.folder / "phantoms").rglob("*.tiff"))))
    model = multimag_run.folder / "models" / "nevi-standin_residual.keras"
    # In a process of its own, which knows no layer but those that predict itself imports.
    asked = ("--model", str(model), "--input", str(slide), "--out", str(tmp_path), "--answer-anyway")
    done = command("predict", *asked)
    assert done.code == 0, done.errors
    answer = json.loads((tmp_path / "prediction.json").read_text())
    assert set(answer["probabilities"]) == {"IN", "CN", "JN"} and answer["distance"] > 0
    assert answer["decision"] == max(answer["probabilities"], key=answer["probabilities"].get)


def test_predict_says_which_model_is_missing(copy, tmp_path, inside):
    slide = next(iter(sorted((copy / "phantoms").rglob("*.tiff"))))
    (copy / "models" / "melanoma-4x-standin.keras").unlink()
    model = copy / "models" / "melanoma-20x-standin.keras"
    done = inside("predict", "--model", str(model), "--input", str(slide), "--out", str(tmp_path / "answer"))
    assert done.code == 2
    assert "melanoma-4x-standin.keras: no such model file" in done.errors


def test_predict_on_a_real_slide(multimag_run, tmp_path, real_data, inside):
    slide = real_data / "wsi" / "CMU-1-Small-Region.svs"
    model = multimag_run.folder / "models" / "melanoma-40x-standin.keras"
    done = inside("predict", "--model", str(model), "--input", str(slide), "--out", str(tmp_path))
    assert done.code == 0, done.errors
    answer = json.loads((tmp_path / "prediction.json").read_text())
    assert set(answer["evidence"]["magnifications"]) >= {"10x", "20x"}
    assert "40x" not in answer["evidence"]["magnifications"]
    assert "not at 40x: its 0.499 µm/px would be enlarged 1.81 times" in answer["evidence"]["left_out"]
    tiles = pd.read_csv(tmp_path / "tiles.csv")
    with Slide(slide) as opened:
        assert (tiles["x"] < opened.size[0]).all() and (tiles["y"] < opened.size[1]).all()
    widths = tiles.groupby("magnification")["w0"].first()
    assert widths["10x"] == pytest.approx(256 / 0.499, rel=1e-3)
    assert widths["20x"] == pytest.approx(128 / 0.499, rel=1e-3)
