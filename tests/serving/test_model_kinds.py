"""One registry of the kinds that answer: `predict` and `export` take the same models, and refuse the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from melano_tf.errors import InputError
from melano_tf.runs.settings_digest import plain
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.model_finding import MODELS, exported_card
from melano_tf.serving.model_kinds import ANSWERING, checked_kind, read_companion
from melano_tf.serving.network_loading import load_network
from tests.papers.tiny import Finished
from tests.serving import small_models
from tests.serving.pictures import FILES


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of every kind that answers, and two that do not."""
    folder = tmp_path_factory.mktemp("models")
    made = {"zoome": small_models.zoome_model(folder), "weighting": small_models.seven_model(folder)}
    made["spitzoid-target"] = small_models.biopsy_model(folder)
    made["spitzoid-source"] = folder / "source.keras"
    made["multimag"] = small_models.magnified_models(folder)["10x"]
    made["bags"] = small_models.bags_model(folder)
    for kind in ("similarity", "similarity-embedding"):
        made[kind] = folder / f"{kind}.keras"
        made[kind].write_bytes(made["weighting"].read_bytes())
        replace(Sidecar.read(made["weighting"]), kind=kind).write(made[kind])
    return made


def test_predict_and_export_know_the_same_kinds(files: dict[str, Path]) -> None:
    assert set(MODELS) == set(ANSWERING)
    for kind in ANSWERING:
        assert checked_kind(Sidecar.read(files[kind]), files[kind]) is ANSWERING[kind]


@pytest.mark.parametrize("kind", ["spitzoid-source", "similarity-embedding"])
def test_export_refuses_what_predict_refuses(
    kind: str, files: dict[str, Path], tmp_path: Path, inside: Callable[..., Finished]
) -> None:
    (tmp_path / "photo.jpg").write_bytes(FILES["photo.jpg"]())
    model = ("--model", str(files[kind]))
    asked = inside("predict", *model, "--input", str(tmp_path / "photo.jpg"), "--out", str(tmp_path / "answer"))
    exported = inside("export", *model, "--out", str(tmp_path / "serving"))
    assert (asked.code, exported.code) == (2, 2)
    assert asked.errors == exported.errors and f"a model of kind '{kind}'; a slide is judged by" in asked.errors
    assert not (tmp_path / "serving").exists()


def without(content: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != key}


DAMAGES: dict[str, tuple[str, Callable[[Sidecar], dict[str, Any]], str]] = {
    "classes": ("zoome", lambda card: {"classes": ("one", "two", "three")}, "3 classes"),
    "same names": ("weighting", lambda card: {"classes": ("MEL",) * 7}, "no different names"),
    "size": ("zoome", lambda card: {"input_px": "224"}, "input_px '224'"),
    "store": (
        "zoome",
        lambda card: {"preprocessing": without(plain(card.preprocessing), "store")},
        "'store' is missing",
    ),
    "code": ("zoome", lambda card: {"preprocessing": {**card.preprocessing, "metadata": {"sites": []}}}, "is missing"),
    "threshold": ("zoome", lambda card: {"threshold": float("nan")}, "threshold nan"),
    "no threshold": ("zoome", lambda card: {"threshold": None}, "threshold None"),
    "calibration": ("zoome", lambda card: {"calibration": {"temperature": 1}}, "damaged"),
    "outputs": ("zoome", lambda card: {"calibration": {**card.calibration, "outputs": 3}}, "3 outputs for 2 classes"),
    "losses": ("zoome", lambda card: {"calibration": {**card.calibration, "log_loss_before": None}}, "no numbers"),
    "measured": (
        "zoome",
        lambda card: {"threshold_measured": without(card.threshold_measured, "hold_out")},
        "'hold_out' is missing",
    ),
    "a word": (
        "zoome",
        lambda card: {
            "threshold_measured": card.threshold_measured
            | {"specificity": {**card.threshold_measured["specificity"], "value": "high"}}
        },
        "must be real number",
    ),
    "folder": ("zoome", lambda card: {"run": {**card.run, "folder": 5}}, "run.folder 5"),
    "grid": ("spitzoid-target", lambda card: {"preprocessing": {**card.preprocessing, "grid": {"px": 1}}}, "px"),
    "fallback": ("spitzoid-target", lambda card: {"preprocessing": {**card.preprocessing, "fallback_tiles": 0}}, "0"),
    "source": ("spitzoid-target", lambda card: {"companions": {}}, "names no source model"),
    "elsewhere": ("spitzoid-target", lambda card: {"companions": {"source": "../a.keras"}}, "no files beside it"),
    "width": (
        "bags",
        lambda card: {"preprocessing": {"features": {"width": 0, "encoder": None, "bag": "slide"}}},
        "features of width 0",
    ),
    "an image": ("bags", lambda card: {"input_px": 224}, "input_px 224"),
    "aggregation": (
        "multimag",
        lambda card: {"preprocessing": {**card.preprocessing, "aggregation": "median"}},
        "aggregation 'median'",
    ),
    "top": ("multimag", lambda card: {"preprocessing": {**card.preprocessing, "top": 0}}, "of 0 top tiles"),
    "no grid": ("multimag", lambda card: {"preprocessing": {**card.preprocessing, "magnifications": ["7x"]}}, "7x"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_sidecar_is_one_line(damage: str, files: dict[str, Path]) -> None:
    kind, change, words = DAMAGES[damage]
    card = Sidecar.read(files[kind])
    broken = replace(card, **change(card))
    with pytest.raises(InputError, match=r"a\.keras: its sidecar is damaged, or of another program") as refused:
        checked_kind(broken, "a.keras")
    assert words in str(refused.value) and "\n" not in str(refused.value)
    # A server's card goes through the same check.
    with pytest.raises(InputError, match="the model's card: its sidecar is damaged"):
        exported_card({"sidecar": plain(broken), "file": "a.keras"}, Path("a"))


def test_a_companion_of_another_kind(files: dict[str, Path]) -> None:
    model = files["spitzoid-target"]
    card = replace(Sidecar.read(model), companions={"source": "zoome.keras"})
    with pytest.raises(InputError, match=r"of kind 'zoome', where target\.keras needs one of kind 'spitzoid-source'"):
        read_companion(model, card, "source")


def test_a_sidecar_of_brackets_is_one_line(files: dict[str, Path], tmp_path: Path) -> None:
    model = tmp_path / "zoome.keras"
    model.write_bytes(files["zoome"].read_bytes())
    Sidecar.path(model).write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"zoome\.json: not a model's sidecar"):
        Sidecar.read(model)


FACTS = {"described": 30, "measured": 12, "from": "examples that the training held out"}


@pytest.mark.parametrize("damage", [{}, {"described": "many"}, {"measured": -1}, {"from": None}, {"described": True}])
def test_an_exported_description_that_says_nothing_is_one_line(damage: dict[str, Any], files: dict[str, Path]) -> None:
    content = {"sidecar": plain(Sidecar.read(files["zoome"])), "file": "zoome.keras"}
    assert exported_card({**content, "familiar": FACTS}, Path("a")).familiar == FACTS
    with pytest.raises(InputError, match=r"the model's card cannot be read \(familiar: it does not say"):
        exported_card({**content, "familiar": {**FACTS, **damage} if damage else {}}, Path("a"))


@pytest.mark.parametrize(
    ("kind", "role", "change", "words"),
    [
        ("multimag", "melanoma-5x", {"preprocessing": {}}, "the melanoma-5x model's card: its sidecar is damaged"),
        ("multimag", "melanoma-40x", {"kind": "zoome"}, "of kind 'zoome', where a.keras needs one of kind 'multimag'"),
        ("spitzoid-target", "source", {"input_px": "48"}, "the source model's card: its sidecar is damaged"),
        ("spitzoid-target", "source", {"threshold": "half"}, "the source model's card: its sidecar is damaged"),
        ("zoome", "source", {}, "where a.keras needs none"),
    ],
)
def test_an_exported_companion_that_is_damaged_is_one_line(
    kind: str, role: str, change: dict[str, Any], words: str, files: dict[str, Path]
) -> None:
    of = "multimag" if kind == "multimag" else "spitzoid-source"
    written = {**plain(Sidecar.read(files[of])), **change}
    content = {"sidecar": plain(Sidecar.read(files[kind])), "file": "a.keras", "companions": {role: written}}
    with pytest.raises(InputError) as refused:
        exported_card(content, Path("a"))
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ("A", "B", "C")}, "has 7 outputs, its sidecar 3 classes"),
        ({"input_px": 48}, "takes images of 32 px"),
    ],
)
def test_a_network_of_another_sidecar(change: dict[str, Any], words: str, files: dict[str, Path]) -> None:
    card = replace(Sidecar.read(files["weighting"]), **change)
    with pytest.raises(InputError, match=words):
        load_network(files["weighting"], card)


def test_a_network_of_other_metadata(files: dict[str, Path]) -> None:
    card = Sidecar.read(files["zoome"])
    fewer = {**card.preprocessing["metadata"], "sites": ["torso", "unknown"]}
    with pytest.raises(InputError, match="takes 9 numbers of a patient, and its sidecar names 7"):
        load_network(files["zoome"], replace(card, preprocessing={**card.preprocessing, "metadata": fewer}))
