"""The atlas' pages without a browser: slow answers that come after another question, models of several classes."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("bokeh", reason="needs Bokeh: pip install 'melano_tf[view]'")
from bokeh.document import Document
from bokeh.models import DataTable, Div, Select

from melano_tf.errors import InputError
from melano_tf.runs.files_of_plan import plan_key
from melano_tf.runs.predictions import predictions, read_predictions, write_predictions
from melano_tf.runs.reader_notes import OPEN, Note, append, now
from melano_tf.view.asked_models import Asked, Map
from melano_tf.view.deepzoom import ByteCache
from melano_tf.view.embedding import Embedding
from melano_tf.view.model_predictions import tile_models
from melano_tf.view.note_form import OTHER, UNSAID, last_words, note_form
from melano_tf.view.overlays import Masks
from melano_tf.view.pages import build
from melano_tf.view.pages.curves import CurvesPage
from melano_tf.view.pages.embedding_map import TOLD, EmbeddingMap
from melano_tf.view.pages.image import ImagePage, answers_table
from melano_tf.view.pages.slide import SlidePage
from melano_tf.view.pages.what_if import WhatIf
from melano_tf.view.run_cases import Runs, read_run
from melano_tf.view.site import Page, Site, pages_of
from tests.runs.test_reader_notes import hold
from tests.view.made_run import NEVI, PLAN, SETTINGS, SEVEN, SIDE, made_images, made_run_of_nevi, tiles_of, write_run

METADATA = {"preprocessing": {"metadata": {"age": {}}}}
TWO = {"classes": ("NV", "MEL"), "threshold": 0.4, **METADATA}
CARDS = {"older": TWO, "two": TWO, "seven": {"classes": SEVEN, "threshold": None, **METADATA}}
FOLDS = ("two-fold-1", "two-fold-2")
OF_SEVEN = [[0.1, 0.6, 0.3, 0, 0, 0, 0], [0.2, 0.3, 0.5, 0, 0, 0, 0]]


class Waiting(Page):
    """A page nobody looks at, whose slow work is done when the test says so.

    Attributes:
        waiting: (work, done, failed) of each, in the order in which they were asked for.
    """

    def __init__(self, site: Site, **arguments: object) -> None:
        super().__init__(site, Document())
        self.arguments = {name: [str(value).encode()] for name, value in arguments.items()}
        self.waiting: list[tuple[Callable[[], Any], Callable[[Any], None], Callable[[str], None]]] = []
        self.pressed = 0

    def later(self, work, done, failed, pool=None) -> None:
        self.waiting.append((work, done, failed))

    def finish(self) -> None:
        """Do what was asked for first."""
        work, done, failed = self.waiting.pop(0)
        try:
            found = work()
        except InputError as error:
            failed(str(error))
            return
        done(found)

    def press(self, letter: str) -> None:
        """Press a key."""
        self.pressed += 1
        self.heard.value = f"key:{letter}|{self.pressed}"


@contextmanager
def site_of(folder: Path) -> Iterator[Site]:
    """What the pages of a run share."""
    site = Site(Runs([folder]), "/token", ByteCache(1 << 20))
    yield site
    for pool in (site.tiles_pool, site.pool, site.aside, site.models):
        pool.shutdown()


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_of(made_run_of_nevi(tmp_path_factory.mktemp("slides") / "run")) as site:
        yield site


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    answers = {"older": [0.8, 0.3], "two": [0.9, 0.1], "seven": OF_SEVEN}
    with site_of(made_images(tmp_path_factory.mktemp("images") / "run", CARDS, answers)) as site:
        yield site


def slide_page(site: Site, overlay: str) -> tuple[Waiting, SlidePage]:
    """A slide's page with a map that is there."""
    page = Waiting(site, map=overlay)
    shown = SlidePage(page, site.runs.get(0), 0)
    shown.show()
    shown._draw()
    while page.waiting:
        page.finish()
    return page, shown


def image_page(site: Site, model: str) -> tuple[Waiting, ImagePage]:
    page = Waiting(site, model=model)
    return page, ImagePage(page, site.runs.get(0), 0)


def saw(*asked: Any) -> list[Map]:
    """What a tile's model answers, by the tile's number."""
    return [Map("CAM", np.ones((2, 2), np.float32), f"of tile {asked[3]}")]


def looked(networks: object, run: object, stem: str, *asked: Any) -> list[Map]:
    """What an image's model answers, by its name."""
    return [Map("Grad-CAM", np.ones((2, 2), np.float32), f"of {stem}")]


def test_what_was_seen_in_one_tile_is_not_drawn_over_another(slides: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melano_tf.view.pages.tile.tile_maps", saw)
    page, slide = slide_page(slides, "no map")
    tile, cam = slide.tile, slide.pane.cam_source
    tile.open(2)
    page.press("c")
    page.press("c")
    assert len(page.waiting) == 1 and tile.ask.disabled
    tile.open(9)
    page.finish()
    assert cam.data["image"] == [] and not tile.shown.visible and not tile.ask.disabled
    page.press("c")
    tile.open(9)
    page.press("c")
    page.finish()  # of the question before the second click
    assert cam.data["image"] == [] and tile.ask.disabled
    page.finish()
    row = tiles_of().iloc[9]
    assert (cam.data["x"], cam.data["y"], cam.data["dw"]) == ([row["x"]], [-(row["y"] + SIDE)], [SIDE])
    assert "of tile 9" in tile.said.text and tile.shown.visible
    tile.open(2)
    assert cam.data["image"] == [] and tile.said.text == ""


def test_what_one_model_saw_in_a_tile_is_not_shown_under_another(slides: Site, monkeypatch) -> None:
    monkeypatch.setattr("melano_tf.view.pages.tile.tile_maps", saw)
    page, slide = slide_page(slides, "no map")
    tile, cam = slide.tile, slide.pane.cam_source
    tile.open(2)
    tile.model.value = "source"
    page.press("c")
    tile.model.value = "nevi"
    page.finish()
    assert cam.data["image"] == []
    page.press("c")
    page.finish()
    assert len(cam.data["image"]) == 1
    tile.model.value = "source"
    assert cam.data["image"] == []

    def broken(*asked: object) -> list[Map]:
        raise InputError("models/source.keras is not there")

    monkeypatch.setattr("melano_tf.view.pages.tile.tile_maps", broken)
    page.press("c")
    tile.model.value = "nevi"
    page.finish()
    assert slide.told.text == ""
    page.press("c")
    page.finish()
    assert "is not there" in slide.told.text and not tile.ask.disabled


def test_a_tile_model_is_asked_of_the_class_whose_map_is_on(slides: Site, monkeypatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("melano_tf.view.pages.tile.tile_maps", lambda *given: asked.append(given[-2:]) or saw(*given))
    for overlay, wanted in (*((f"{name} (nevi)", place) for place, name in enumerate(NEVI)), ("no map", None)):
        page, slide = slide_page(slides, overlay)
        slide.tile.open(0)
        slide.tile.model.value = "nevi"
        page.press("c")
        page.finish()
        assert asked.pop() == ("nevi", wanted)
    page, slide = slide_page(slides, "IN (nevi)")
    slide.tile.open(0)
    slide.tile.model.value = "source"  # whose map it is not
    page.press("c")
    page.finish()
    assert asked.pop() == ("source", None)


def test_a_map_that_comes_late_is_not_shown_under_another_ones_name(slides: Site) -> None:
    page, slide = slide_page(slides, "IN (nevi)")
    slide.overlay.value = "CN (nevi)"
    slide.tile.open(0)  # while the map that is there is still the first
    assert "IN (nevi): 0.7000" in slide.tile.words.text
    page.finish()  # its tiles are read, and its picture is asked for
    slide.overlay.value = "positive (source)"
    assert len(page.waiting) == 2
    page.finish()
    assert slide.drawn is None and slide.deciding.text == "" and slide.counted.text == ""
    while page.waiting:
        page.finish()
    assert slide.drawn is slide.overlays["positive (source)"] and "positive (source)" in slide.deciding.text


def test_a_map_that_cannot_be_drawn_is_said_while_it_is_the_chosen_one(slides: Site, monkeypatch) -> None:
    page, slide = slide_page(slides, "IN (nevi)")

    def broken(*asked: object) -> None:
        raise InputError("damaged")

    monkeypatch.setattr("melano_tf.view.overlays.read_tiles", broken)
    slide.overlay.value = "CN (nevi)"
    slide.overlay.value = "no map"
    page.finish()
    assert slide.told.text == ""
    page.finish()
    slide.overlay.value = "JN (nevi)"
    page.finish()
    assert "the map cannot be drawn: damaged" in slide.told.text and not slide.pane.map.visible


def test_where_one_model_looked_is_not_shown_under_another(images: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melano_tf.view.pages.image.image_maps", looked)
    page, image = image_page(images, "two")
    page.press("c")
    page.press("c")
    assert len(page.waiting) == 1
    image.model.value = "older"
    page.finish()
    assert image.map_source.data["image"] == [] and not image.shown.visible and not image.ask.disabled
    page.press("c")
    page.finish()
    assert len(image.map_source.data["image"]) == 1 and "of older" in image.told.text and image.fade.visible
    image.model.value = "two"
    assert image.map_source.data["image"] == [] and not image.shown.visible and image.told.text == ""

    def broken(*asked: object) -> list[Map]:
        raise InputError("models/two.keras is not there")

    monkeypatch.setattr("melano_tf.view.pages.image.image_maps", broken)
    page.press("c")
    image.model.value = "older"
    page.finish()
    assert image.told.text == ""


def test_the_line_of_the_chosen_model_stands_out(images: Site) -> None:
    page, image = image_page(images, "two")
    image.show()
    [table] = [one for one in page.doc.select({"type": Div}) if "<th>model</th>" in one.text]
    assert "<b>two</b>" in table.text and "<b>older</b>" not in table.text
    image.model.value = "older"
    assert "<b>older</b>" in table.text and "<b>two</b>" not in table.text


def answering(*probabilities: float, distance: float | None = 0.5) -> Callable[..., Asked]:
    return lambda *asked: Asked(np.array(probabilities), distance)


def test_what_one_model_said_if_is_not_shown_under_another(images: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melano_tf.view.pages.what_if.ask", answering(0.65, 0.35))
    page, image = image_page(images, "two")
    what_if = WhatIf(image)
    assert what_if.box.visible
    what_if.sex.value = "unknown"
    image.model.value = "older"
    page.finish()
    assert what_if.said.text == ""
    what_if.sex.value = "female"
    page.finish()
    assert "MEL 0.350 (as recorded: 0.800); called NV at 0.4; distance" in what_if.said.text


def test_what_if_it_cannot_be_asked_is_said_once(images: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*asked: object) -> Asked:
        raise InputError("models/two.keras is not there")

    monkeypatch.setattr("melano_tf.view.pages.what_if.ask", broken)
    page, image = image_page(images, "two")
    what_if = WhatIf(image)
    what_if.sex.value = "unknown"
    assert "asking the model" in what_if.said.text
    page.finish()
    assert what_if.said.text == "" and "is not there" in image.told.text
    image.say("")
    what_if.sex.value = "female"
    image.model.value = "older"
    page.finish()
    assert image.told.text == ""


def test_what_if_of_seven_classes_says_the_most_probable(images: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melano_tf.view.pages.what_if.ask", answering(0.1, 0.2, 0.7, 0, 0, 0, 0))
    page, image = image_page(images, "seven")
    what_if = WhatIf(image)
    what_if.sex.value = "unknown"
    page.finish()
    assert "BCC 0.700 (as recorded: 0.300); called BCC; distance" in what_if.said.text
    monkeypatch.setattr("melano_tf.view.pages.what_if.ask", answering(0.1, 0.2, 0.7, 0, 0, 0, 0, distance=3.0))
    what_if.sex.value = "female"
    page.finish()
    assert "BCC 0.700 (as recorded: 0.300); decision withheld; " in what_if.said.text


def test_a_gallery_shows_the_probability_of_what_was_called(images: Site) -> None:
    for name, words in (("two", ["MEL · MEL 0.90", "NV · NV 0.90"]), ("seven", ["MEL · NV 0.60", "NV · BCC 0.50"])):
        page = Waiting(images, model=name, order="as in the table")
        build("cases", page)
        table = page.doc.select_one({"type": DataTable})
        assert [table.source.data[f"w{place}"][0] for place in (0, 1)] == words


def test_a_tie_of_several_classes_is_undecided_and_wrong_on_every_page(tmp_path: Path, monkeypatch) -> None:
    tie, plain = [0.4, 0.4, 0.2, 0, 0, 0, 0], [0.1, 0.6, 0.3, 0, 0, 0, 0]
    folder = made_images(tmp_path / "run", {"seven": CARDS["seven"]}, {"seven": [tie, plain]})  # the first is MEL
    asked: list[int] = []
    monkeypatch.setattr("melano_tf.view.pages.image.image_maps", lambda *given: asked.append(given[-1]) or [])
    with site_of(folder) as site:
        page = Waiting(site, order="as in the table")
        build("cases", page)
        words = [one.text for one in page.doc.select({"type": Div})]
        assert any("2 judged, 1 of them wrong" in one for one in words)
        table = page.doc.select_one({"type": DataTable})
        assert [table.source.data[f"w{place}"][0] for place in (0, 1)] == ["MEL · undecided 0.40", "NV · NV 0.60"]
        curves = CurvesPage(Waiting(site), site.runs.get(0))
        cells = curves.place.children[0].renderers[0].data_source.data
        counted = {(t, c): n for t, c, n in zip(cells["truth"], cells["called"], cells["count"], strict=True) if n}
        assert counted == {("MEL", "undecided"): 1, ("NV", "NV"): 1}
        page, shown = image_page(site, "seven")
        shown._ask()
        page.waiting[0][0]()
        assert asked == [0]


def test_what_if_two_classes_tie_none_is_called(images: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melano_tf.view.pages.what_if.ask", answering(0.1, 0.45, 0.45, 0, 0, 0, 0))
    page, image = image_page(images, "seven")
    what_if = WhatIf(image)
    what_if.sex.value = "unknown"
    page.finish()
    assert "called undecided; " in what_if.said.text


def test_the_area_of_several_folds_says_that_it_is_of_one_curve(tmp_path: Path) -> None:
    folder = made_images(tmp_path / "run", {"one": TWO}, {"one": [0.9, 0.1]})
    table = read_predictions(folder / "predictions" / "one.csv")
    for fold in (1, 2):
        write_predictions(folder / "predictions" / f"two-fold-{fold}.csv", table.iloc[[fold - 1]])
    write_run(folder, "weighting", read_run(folder).record["settings"], {"one": TWO} | dict.fromkeys(FOLDS, TWO))
    with site_of(folder) as site:
        for name, pooled in (("one", False), ("two", True)):
            page = Waiting(site, model=name)
            curves = CurvesPage(page, site.runs.get(0))
            page.finish()
            assert "ROC AUC of MEL" in curves.words.text
            assert ("all folds in one curve" in curves.words.text) == pooled


def test_a_gallery_stands_where_no_age_is_known(tmp_path: Path) -> None:
    folder = made_images(tmp_path / "run", CARDS, {"two": [0.9, 0.1]})
    (folder / "HAM10000_metadata.csv").unlink()
    with site_of(folder) as site:
        page = Waiting(site)
        build("cases", page)
        assert page.doc.select_one({"type": DataTable}).source.data["n1"].tolist() == [1]


def test_a_slides_probability_says_whose_it_is(tmp_path: Path) -> None:
    folder = made_run_of_nevi(tmp_path / "run")
    rows = pd.DataFrame({"case": ["S0"], "group": "P0", "part": "test", "target": 0})
    write_predictions(folder / "predictions" / "target.csv", predictions(rows, np.array([0.03])))
    write_predictions(folder / "predictions" / "kinds.csv", predictions(rows, np.array([[0.7, 0.2, 0.1]]), NEVI))
    cards = {"target": {"classes": ("benign", "a <b>"), "threshold": 0.5}, "kinds": {"classes": NEVI}}
    write_run(folder, "spitzoid", read_run(folder).record["settings"], cards)
    with site_of(folder) as site:
        page = Waiting(site, model="target")
        build("cases", page)
        table = page.doc.select_one({"type": DataTable})
        [column] = [one for one in table.columns if one.field == "p"]
        assert column.title == "P(a &lt;b&gt;)" and table.source.data["p"].tolist() == [0.03]
        page.doc.select_one({"title": "model"}).value = "kinds"
        assert column.title == "P(called)" and table.source.data["p"].tolist() == [0.7]
        answer = SlidePage(Waiting(site), site.runs.get(0), 0)
        answer._answers()
        assert "P(a &lt;b&gt;) 0.030</td>" in answer.answer.text and "P(called) 0.700</td>" in answer.answer.text


def test_a_threshold_of_0_is_the_models_threshold(tmp_path: Path) -> None:
    card = {"classes": ("NV", "MEL")}
    cards = {"none": card, "null": {**card, "threshold": None}, "zero": {**card, "threshold": 0.0}}
    folder = made_images(tmp_path / "images", cards, {name: [0.3, 0.0] for name in cards})
    found = read_run(folder).models
    assert {name: one.threshold for name, one in found.items()} == {"none": 0.5, "null": 0.5, "zero": 0.0}
    assert found["zero"].frame["threshold"].tolist() == [0.0, 0.0]
    folder = made_run_of_nevi(tmp_path / "slides")
    for written, read in ((0.0, 0.0), (None, 0.5), (0.7, 0.7)):
        write_run(folder, "spitzoid", read_run(folder).record["settings"], {"source": {**card, "threshold": written}})
        assert tile_models(read_run(folder).standing)["source"].threshold == read


def test_an_interval_that_comes_late_is_not_said_of_another_model(images: Site, monkeypatch) -> None:
    def broken(*asked: object, **given: object) -> None:
        raise InputError("no interval")

    monkeypatch.setattr("melano_tf.view.pages.curves.binary_intervals", broken)
    page = Waiting(images, model="two")
    curves = CurvesPage(page, images.runs.get(0))
    curves.model.value = "older"
    assert len(page.waiting) == 2
    page.finish()
    assert "no interval" not in curves.words.text
    page.finish()
    assert "no interval" in curves.words.text


def test_a_plane_that_cannot_be_made_is_said_while_it_is_the_chosen_one(images: Site, monkeypatch) -> None:
    def broken(*asked: object) -> None:
        raise InputError("no plane")

    monkeypatch.setattr("melano_tf.view.pages.embedding_map.umap_plane", broken)
    monkeypatch.setattr("melano_tf.view.pages.embedding_map.has_umap", lambda: True)
    page, vectors = Waiting(images), np.eye(2, 3, dtype=np.float32)
    shown = EmbeddingMap(page, images.runs.get(0), Embedding(("I0", "I1"), vectors, {"I0": 0, "I1": 1}))
    shown.show()
    shown.how.value = "UMAP"
    shown.how.value = "PCA"
    page.finish()
    assert shown.told.text == TOLD
    shown.how.value = "UMAP"
    page.finish()
    assert "no plane" in shown.told.text


@pytest.mark.parametrize("older", [(), ("clusters.csv",), ("embedding.npy", "clusters.csv")])
def test_clusters_neighbours_and_the_map_are_those_of_the_present_settings(
    tmp_path: Path, older: tuple[str, ...]
) -> None:
    folder = made_images(tmp_path / "run", {"two": TWO}, {"two": [0.8, 0.3, 0.1]})
    files = [folder / "clusters" / name for name in ("clusters.csv", "embedding.npy")]
    files[0].parent.mkdir()
    files[0].write_text("image_id,source,cluster\nI0,HAM,1\nI1,HAM,0\nI2,HAM,1\n")
    np.save(files[1], np.eye(3, dtype=np.float32))
    made = json.loads((folder / "made.json").read_text())
    for file in files:
        plan = plan_key({**PLAN, "settings": "before"} if file.name in older else PLAN)
        made[f"clusters/{file.name}"] = {"plan": plan, "step": "cluster/groups", "key": "k"}
    (folder / "made.json").write_text(json.dumps(made))
    seen = read_run(folder)
    found = Embedding.read(seen)
    assert seen.standing.older() == sorted(f"clusters/{name}" for name in older)
    assert ("map" in dict(pages_of(seen))) == (found is not None) == (not older)
    if "clusters.csv" in older:
        assert "cluster" not in seen.cases
    else:
        assert seen.cases["cluster"].tolist() == ["HAM: 1", "HAM: 0", "HAM: 1"]
        assert found is not None and found.cases == ("I0", "I1", "I2")


def test_a_mask_is_of_the_resolution_that_its_run_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melano_tf.view.overlays.tissue_mask", lambda slide, mpp, headroom: slide.mpp)
    run: Any = SimpleNamespace(record={"settings": {}})
    masks = Masks()
    for mpp in (0.25, 0.5, 0.25):
        slide: Any = SimpleNamespace(path=Path("s.tiff"), size=(1000, 1000), mpp=(mpp, mpp))
        assert masks.get(run, slide) == (mpp, mpp)


def test_filters_of_slides_offer_what_the_chosen_model_called(tmp_path: Path) -> None:
    folder = made_run_of_nevi(tmp_path / "run")
    classes = {"two": ("benign", "malignant"), "three": NEVI}
    for name, own in classes.items():
        rows = pd.DataFrame({"case": ["S0"], "group": "P0", "part": "test", "target": [0]})
        table = predictions(rows, np.array([[0.8, 0.2, 0.0]]) if len(own) == 3 else np.array([0.2]), own)
        write_predictions(folder / "predictions" / f"{name}.csv", table)
    write_run(folder, "multimag", SETTINGS, {name: {"classes": own, "threshold": 0.5} for name, own in classes.items()})
    with site_of(folder) as site:
        page = Waiting(site, model="two")
        build("cases", page)
        by_title = {one.title: one for one in page.doc.select({"type": Select})}
        by_title["called"].value = "benign"
        by_title["model"].value = "three"
        assert by_title["called"].options == ["all", NEVI[0]] and by_title["called"].value == "all"
        assert by_title["true class"].options == ["all", NEVI[0]]
        [shown] = page.doc.select({"type": DataTable})
        assert shown.source.data["case"] == ["S0"]


def test_nothing_is_said_of_a_training_that_an_image_had_no_part_in() -> None:
    """No model yet, or an image of a source that no model is trained on (similarity's unnamed one and MSK)."""
    page: Any = SimpleNamespace(judging={})
    assert "has judged this image" in answers_table(page) and "training" not in answers_table(page)


def test_notes_of_another_cohort_are_shown_as_such_and_are_no_words_of_the_list(tmp_path: Path) -> None:
    with site_of(made_run_of_nevi(tmp_path / "run")) as site:
        run = site.runs.get(0)
        case = str(run.cases["case"].iloc[0])
        for content, reader in (("ab12", "before"), ("cd34", "after")):
            hold(run.folder, **{case: content})
            append(run.folder, Note(now(), reader, OPEN, case, "agree"))
        form = note_form(Waiting(site), run.folder, case, lambda: ("", ""))
        written = form.children[-1].text
        assert written.index("after") < written.index("before") and written.count(OTHER) == 1
        assert OTHER in written[written.index("before") :] and UNSAID not in written
        assert last_words(run.folder) == {case: "after: agree"}
        (run.folder / "notes" / "before.csv").write_text(f"time,reader,mode,case,verdict\nnow,old,open,{case},unsure\n")
        assert UNSAID in note_form(Waiting(site), run.folder, case, lambda: ("", "")).children[-1].text
