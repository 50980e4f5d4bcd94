"""A model in its run's folder: what was made with it is told from what another session's settings left beside it."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from melano_tf.commands.similar import SimilarSettings, similar
from melano_tf.errors import InputError
from melano_tf.runs.atomic_files import file_sha256, write_json
from melano_tf.runs.files_of_plan import plan_key
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.export import card_content
from melano_tf.serving.image_graph import Limits
from melano_tf.serving.magnified_models import LocalTiles
from melano_tf.serving.model_finding import file_card
from melano_tf.serving.model_interface import Card
from melano_tf.serving.network_loading import load_network
from melano_tf.serving.run_of_model import made_together
from melano_tf.serving.serving_files import model_card
from melano_tf.training.checkpoint import weights_sha256
from tests.papers.tiny import Finished
from tests.serving import small_models
from tests.serving.conftest import Models
from tests.serving.pictures import FILES
from tests.serving.test_export import biopsies

PLANS = [{"settings": f"seed {seed}", "data": "as read"} for seed in range(3)]


def recorded(run: Path, seeds: Mapping[str, int], now: int = 1) -> None:
    """The records of a run: of each file, under which of `PLANS` it was made."""
    write_json(run / "run.json", {"recipe": "toy", "settings": {}, "plan": PLANS[now]})
    made: dict[str, dict[str, Any]] = {}
    for name, seed in seeds.items():
        step: dict[str, Any] = {"step": f"train/{Path(name).stem}", "key": "k"}
        output = {"step": None, "output": "table", "key": "k", "of": []}
        facts = output | {"sha256": file_sha256(run / name)} if name.startswith("tables/") else step
        made[name] = {"plan": plan_key(PLANS[seed]), **facts}
    write_json(run / "made.json", made)


def put(models: Models, folder: Path, *names: str) -> None:
    """Copies of small models with their sidecars."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for suffix in (".keras", ".json"):
            shutil.copy(models.serving.parent / "models" / f"{name}{suffix}", folder)


def said(path: Path, **run: object) -> None:
    """Let a model's sidecar say more of its run."""
    card = Sidecar.read(path)
    replace(card, run={**card.run, **run}).write(path)


@pytest.mark.parametrize(
    ("seeds", "refused"),
    [
        ({"seven.keras": 0, "seven.json": 0}, ""),
        ({"seven.json": 0}, "seven.keras"),  # its training was begun anew, and a sidecar of the last one lies there
        ({"seven.keras": 1}, "seven.json"),  # trained, and not judged yet
        ({}, "seven.keras"),
    ],
)
def test_a_model_that_its_run_is_making_anew_is_refused(
    models: Models, tmp_path: Path, seeds: dict[str, int], refused: str
) -> None:
    put(models, tmp_path / "run" / "models", "seven")
    recorded(tmp_path / "run", {f"models/{name}": seed for name, seed in seeds.items()})
    path = tmp_path / "run" / "models" / "seven.keras"
    if not refused:
        assert file_card(path).sidecar.kind == "weighting"
        return
    with pytest.raises(InputError, match=rf"{refused}: no finished step of the run in .* made it") as told:
        file_card(path)
    assert "\n" not in str(told.value)
    # Copied out of its run, and in a run of a version that kept no such record, it is what it says.
    put(models, tmp_path / "copied" / "models", "seven")
    assert file_card(tmp_path / "copied" / "models" / "seven.keras").model.parent.name == "models"
    (tmp_path / "run" / "made.json").unlink()
    assert file_card(path).sidecar.kind == "weighting"


def test_a_relative_name_finds_its_run(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(models, tmp_path / "models", "seven")
    recorded(tmp_path, {})
    monkeypatch.chdir(tmp_path / "models")
    with pytest.raises(InputError, match="no finished step"):
        file_card(Path("seven.keras"))


def test_similar_refuses_it_too(tmp_path: Path) -> None:
    path = tmp_path / "run" / "models" / "teacher.keras"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a network")
    Sidecar("similarity-embedding", (), 32, {}, None, "", run={}).write(path)
    recorded(tmp_path / "run", {"models/teacher.json": 0})
    with pytest.raises(InputError, match="no finished step"):
        similar(SimilarSettings(path, tmp_path / "a.jpg", tmp_path), print)


@pytest.mark.parametrize(("of_predictions", "now"), [(0, 0), (0, 1), (1, 1)])
def test_predictions_of_another_seed_measure_nothing_of_a_model(
    models: Models, tmp_path: Path, of_predictions: int, now: int
) -> None:
    put(models, tmp_path / "models", "target", "source")
    biopsies(tmp_path, "AABCDE", [1, 1, 0, 1, 0, 0], [0.9, 0.4, 0.2, 0.5, 0.7, 0.1])
    names = ("models/target.keras", "models/target.json", "models/source.keras", "models/source.json")
    recorded(tmp_path, {**dict.fromkeys(names, 0), "predictions/target.csv": of_predictions}, now)
    measured = file_card(tmp_path / "models" / "target.keras").measured
    assert (measured is None) == (of_predictions != 0)
    assert measured is None or measured["samples"] == 6


def test_a_companion_of_another_seed_is_refused(models: Models, tmp_path: Path) -> None:
    """Of a sidecar that names no weights, by the plan under which both were made; else by the weights alone."""
    run, alone = tmp_path / "run", tmp_path / "alone"
    for folder in (run / "models", alone):
        put(models, folder, "target", "source")
    own = {"models/target.keras": 0, "models/target.json": 0}
    words = r"source\.keras: is not the model that target\.keras was made with"
    for seed in (1, 0):
        recorded(run, {**own, "models/source.keras": seed, "models/source.json": seed})
        if seed:
            with pytest.raises(InputError, match=words):
                file_card(run / "models" / "target.keras")
        else:
            assert file_card(run / "models" / "target.keras").companions["source"].kind == "spitzoid-source"
    assert file_card(alone / "target.keras").companions["source"].kind == "spitzoid-source"
    for folder in (run / "models", alone):
        path = folder / "target.keras"
        replace(Sidecar.read(path), companion_weights={"source": "a" * 64}).write(path)
        for weights in ("a", "b"):
            said(folder / "source.keras", weights_sha256=weights * 64)
            recorded(run, {**own, "models/source.keras": 1, "models/source.json": 1})  # in two sessions
            if weights == "a":
                assert file_card(path).companions["source"].run["weights_sha256"] == "a" * 64
            else:
                with pytest.raises(InputError, match=words):
                    file_card(path)


def test_a_network_beside_the_sidecar_of_another_training_is_one_line(
    models: Models, tmp_path: Path, inside: Callable[..., Finished]
) -> None:
    put(models, tmp_path, "seven")
    path, image = tmp_path / "seven.keras", tmp_path / "photo.jpg"
    image.write_bytes(FILES["photo.jpg"]())
    digest = weights_sha256(load_network(path))
    said(path, weights_sha256=digest)
    asked = ("predict", "--model", str(path), "--input", str(image), "--out", str(tmp_path / "answer"))
    assert inside(*asked).code == 0
    said(path, weights_sha256=digest[::-1])
    for command in (asked, ("export", "--model", str(path), "--out", str(tmp_path / "serving"))):
        done = inside(*command)
        lines = [line for line in done.errors.splitlines() if line.startswith("melano_tf:")]
        assert done.code == 2 and len(lines) == 1, done.errors
        assert f"{path}: its weights are not those that seven.json was written for" in lines[0]


def test_each_magnification_is_compared_with_its_own_sidecar(tmp_path: Path) -> None:
    paths = small_models.magnified_models(tmp_path)
    weights = {name: weights_sha256(load_network(path)) for name, path in paths.items()}
    assert len(set(weights.values())) == 3
    for name, path in paths.items():
        said(path, weights_sha256=weights[name])
        others = {f"melanoma-{one}": digest for one, digest in weights.items() if one != name}
        replace(Sidecar.read(path), companion_weights=others).write(path)
    judge = LocalTiles(file_card(paths["10x"]))
    assert all(judge.network(name) is not None for name in ("5x", "10x", "40x"))
    shutil.copy(paths["5x"], paths["40x"])  # another network beside its sidecar
    with pytest.raises(InputError, match=r"melanoma-40x\.keras: its weights are not those that melanoma-40x\.json"):
        LocalTiles(file_card(paths["10x"])).network("40x")


@pytest.mark.parametrize(
    ("of_model", "of_table", "weights", "name", "shown"),
    [
        (0, 0, "a", "zoome.keras", True),
        (0, 0, "a", "renamed.keras", True),
        (0, 1, "a", "zoome.keras", False),  # `--seed 1 --steps tables` on the folder of seed 0
        (1, 1, "b", "zoome.keras", False),  # the run has trained another model of this name
        (1, 1, None, "zoome.keras", False),
    ],
)
def test_a_card_shows_the_tables_that_were_made_with_its_model(
    tmp_path: Path, of_model: int, of_table: int, weights: str | None, name: str, shown: bool
) -> None:
    store = {"store": {"stored_px": 40}, "metadata": None}
    card = Sidecar("zoome", ("benign", "melanoma"), 32, store, 0.5, "fixed", {"weights_sha256": "a", "seed": 0})
    run = tmp_path / "run"
    for folder in ("models", "tables"):
        (run / folder).mkdir(parents=True)
    (run / "models" / "zoome.keras").write_bytes(b"a network")
    replace(card, run={} if weights is None else {"weights_sha256": weights}).write(run / "models" / "zoome.keras")
    (run / "tables" / "table1.md").write_text("# Table I\n\nROC AUC 0.8123\n")
    made = {"models/zoome.keras": of_model, "models/zoome.json": of_model, "tables/table1.md": of_table}
    recorded(run, made, now=1)
    content = card_content(Card(tmp_path / name, name, card, {}, None), tmp_path / "a" / "1", Limits())
    assert ("ROC AUC 0.8123" in model_card(content, run)) == shown


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        (None, ["1", "2", "2-f1", "10"]),
        (["best", "cameras", "gone"], ["best", "cameras"]),
        ("odd", ["1", "2", "2-f1", "10"]),
    ],
)
def test_a_card_shows_the_tables_that_measure_its_model(tmp_path: Path, named: object, shown: list[str]) -> None:
    run: dict[str, Any] = {"weights_sha256": "a", "seed": 0} | ({} if named is None else {"tables": named})
    store = {"store": {"stored_px": 40}, "metadata": None}
    card = Sidecar("weighting", ("MEL", "NV", "BCC"), 32, store, None, "most probable", run)
    for folder in ("models", "tables"):
        (tmp_path / folder).mkdir()
    (tmp_path / "models" / "final.keras").write_bytes(b"a network")
    card.write(tmp_path / "models" / "final.keras")
    tables = ("table10", "table2", "best", "table2-f1", "cameras", "differences", "table1")
    for name in tables:
        (tmp_path / "tables" / f"{name}.md").write_text(f"# It is {name.removeprefix('table')}\n")
    files = ("models/final.keras", "models/final.json", *(f"tables/{name}.md" for name in tables))
    recorded(tmp_path, dict.fromkeys(files, 1), now=1)
    asked = Card(tmp_path / "models" / "final.keras", "final.keras", card, {}, None)
    found = model_card(card_content(asked, tmp_path / "a" / "1", Limits()), tmp_path)
    assert [line.removeprefix("### It is ") for line in found.splitlines() if line.startswith("### It is")] == shown


def test_what_was_made_together_is_of_the_models_plan(tmp_path: Path) -> None:
    names = ("models/a.keras", "models/a.json", "predictions/a.csv", "predictions/b.csv")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    recorded(tmp_path, dict(zip(names, (2, 2, 2, 1), strict=True)), now=1)
    together = made_together(tmp_path / "models" / "a.keras")
    assert together is not None
    assert together.of([tmp_path / name for name in names]) == [tmp_path / name for name in names[:3]]
    for content in ("[]", "{", json.dumps({names[0]: "odd", names[1]: {"plan": 3}})):
        (tmp_path / "made.json").write_text(content)
        with pytest.raises(InputError, match="no finished step"):
            made_together(tmp_path / "models" / "a.keras")
