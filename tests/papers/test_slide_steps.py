"""The steps on slides that recipes share: what is wanted is cut and stays, and what stands on it is not done again."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from melano_tf.errors import InputError
from melano_tf.papers.plan import Plan, Step
from melano_tf.papers.shell import Looked, Work, do, look, states_of
from melano_tf.papers.slide_steps import Cutting, add_slide_steps, asked_tiles, cut_identity, cut_tiles
from melano_tf.pipelines import tile_store
from melano_tf.pipelines.processes import in_this_process
from melano_tf.pipelines.tile_store_settings import StoreSettings
from melano_tf.runs.run_folder import Run
from melano_tf.slides.annotations import AnnotationSettings
from melano_tf.slides.magnifications import TileGrids
from melano_tf.slides.slide import Slide, SlideReadError
from melano_tf.slides.tiling import TileGrid
from melano_tf.view.run_cases import slide_cases
from tests.pipelines.small_slides import write_annotation, write_slide_file

STORE = StoreSettings(stored_px=64, mask_mpp=4.0)
ONE = Cutting(TileGrid(tile_px=64), STORE)
SEVERAL = Cutting(TileGrids(names=("fine", "coarse"), mpp=(1.0, 2.0), tile_px=64), STORE)


@dataclass(frozen=True)
class Settings:
    """What the shared steps ask of a recipe's."""

    slides: Path | None
    seed: int = 0
    workers: int = 1


@dataclass(frozen=True)
class StatedSettings(Settings):
    """With the run's folder, which is no part of a method."""

    out: Path = Path()


@dataclass(frozen=True)
class Chosen:
    """A choice of tiles by slide."""

    wanted: Mapping[str, Mapping[str, str]]

    def __call__(self, work, manifest):
        return [self.wanted.get(slide_id, {}) for slide_id in manifest["slide_id"]]


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """Slide a with an outline, slide b without; returns the manifest."""
    for seed, name in enumerate("ab"):
        write_slide_file(tmp_path / f"{name}.tiff", seed)
    write_annotation(tmp_path / "a.geojson", [(300, 200), (600, 200), (600, 500), (300, 500)])
    path = tmp_path / "slides.csv"
    path.write_text("slide_id,path,patient_id,label,annotation\na,a.tiff,P1,malignant,a.geojson\nb,b.tiff,P2,benign,\n")
    return path


def plan_of(cutting: Cutting, choose: Chosen | None = None, asks: Sequence[str] = ()) -> Plan:
    """These steps alone."""
    plan = Plan(("slides", "tiles"), lambda work: [], lambda work: "")
    add_slide_steps(plan, "spitzoid", lambda *given: Path(), lambda work, frame: None, cutting, choose, asks)
    return plan


def session(out: Path, manifest: Path, cutting: Cutting, choose: Chosen | None = None, asks: Sequence[str] = ()) -> Any:
    """One session of a run of these steps: (the run, the slides and how they are cut, tiles, lines said)."""
    plan, said = plan_of(cutting, choose, asks), []
    settings = Settings(manifest)
    with Run(out, "toy", settings, 1, said.append) as run:
        work = Work(run, settings, {})
        for step in plan.steps.values():
            do(work, step)
        return run, cut_identity(work, cutting), cut_tiles(work)[0], said


def test_slides_that_were_moved_are_not_cut_again_and_changed_ones_are(slides, tmp_path):
    out = tmp_path / "run"
    first = session(out, slides, ONE)
    assert first[0].repeated == ["tiles"] and set(first[2]["slide_id"]) == {"a", "b"}
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in [*tmp_path.glob("*.tiff"), slides, tmp_path / "a.geojson"]:
        shutil.copy(path, moved / path.name)
    again = session(out, moved / "slides.csv", ONE)
    assert again[0].kept == ["tiles"] and again[1] == first[1]
    (moved / "a.tiff").replace(moved / "b.tiff")  # b's own pixels are others now
    shutil.copy(tmp_path / "a.tiff", moved / "a.tiff")
    changed = session(out, moved / "slides.csv", ONE)
    assert changed[0].repeated == ["tiles"] and changed[1] != first[1]


def test_how_outlines_are_read_counts_where_there_are_any(slides, tmp_path):
    other = replace(ONE, annotation=AnnotationSettings(("tumour",)))
    plain = tmp_path / "plain.csv"
    plain.write_text(slides.read_text().replace("a.geojson", ""))
    known = {
        (name, cutting is other): session(tmp_path / name / str(cutting is other), path, cutting)[1]
        for name, path in (("outlined", slides), ("plain", plain))
        for cutting in (ONE, other)
    }
    assert known["outlined", False] != known["outlined", True]
    assert known["plain", False] == known["plain", True]


def test_what_an_earlier_session_wanted_stays_and_does_not_change_what_the_tiles_are_known_by(slides, tmp_path):
    out = tmp_path / "run"
    coarse, fine = Chosen({"a": {"coarse": "outlined"}}), Chosen({"b": {"fine": "whole"}})

    def held(tiles: pd.DataFrame) -> set[tuple[str, str]]:
        return set(zip(tiles["slide_id"], tiles["magnification"], strict=True))

    first = session(out, slides, SEVERAL, coarse)
    assert held(first[2]) == {("a", "coarse")} and first[2]["outlined"].all()  # b is passed over
    second = session(out, slides, SEVERAL, fine)
    assert second[0].repeated == ["tiles"] and held(second[2]) == {("a", "coarse"), ("b", "fine")}
    third = session(out, slides, SEVERAL, coarse)
    assert third[0].kept == ["tiles"] and third[2].equals(second[2])
    assert first[1] == second[1] == third[1]
    finer = replace(SEVERAL, grid=replace(SEVERAL.grid, min_tissue=0.9))
    anew = session(out, slides, finer, coarse)  # cut in another way: what was wanted of those is of no use here
    assert held(anew[2]) == {("a", "coarse")} and anew[1] != first[1]


def test_what_is_left_out_is_said_and_noted_and_nothing_at_all_is_a_fault(slides, tmp_path):
    (tmp_path / "b.tiff").write_text("no slide\n" * 100)
    run, _, tiles, said = session(tmp_path / "run", slides, ONE)
    assert set(tiles["slide_id"]) == {"a"} and any(line.startswith("  left out: b: ") for line in said)
    assert [row["slide_id"] for row in run.record()["excluded"]] == ["b"]
    (tmp_path / "a.tiff").write_text("no slide\n" * 100)
    with pytest.raises(InputError, match="no slide brought any tile"):
        session(tmp_path / "none", slides, ONE)


def test_names_that_look_like_a_missing_value_or_a_number_stay_names(slides, tmp_path):
    slides.write_text("slide_id,path,patient_id,label\nNA,a.tiff,null,malignant\n007,b.tiff,01,benign\n")
    (tmp_path / "a.tiff").write_text("no slide\n" * 100)
    run, known, tiles, said = session(tmp_path / "run", slides, ONE)
    assert set(tiles["slide_id"]) == {"007"} and any(line.startswith("  left out: NA: ") for line in said)
    [row] = run.record()["excluded"]
    assert (row["slide_id"], row["patient_id"], row["notes"], row["tiles"]) == ("NA", "null", "", 0)
    assert known[-1] == {"without": ["NA"]}
    (tmp_path / "run" / "run.json").write_text(json.dumps({"recipe": "toy"}))
    assert slide_cases(tmp_path / "run", {"settings": {}})[0]["case"].tolist() == ["NA", "007"]


def test_a_slide_that_failed_is_tried_again_by_the_next_command(slides, tmp_path, monkeypatch):
    out, read = tmp_path / "run", Slide.read

    def away(self, *region):
        if self.slide_id == "b":
            raise SlideReadError("the share was away")
        return read(self, *region)

    with monkeypatch.context() as patch:
        patch.setattr(Slide, "read", away)
        patch.setattr(tile_store, "on_this_machine", lambda workers: in_this_process(1))
        first = session(out, slides, ONE)
    assert set(first[2]["slide_id"]) == {"a"} and any("the share was away" in line for line in first[3])
    cut = (out / "tiles" / "a.tfrecord").stat().st_mtime_ns
    again = session(out, slides, ONE)
    assert again[0].repeated == ["tiles"] and set(again[2]["slide_id"]) == {"a", "b"}
    assert again[1] != first[1], "what was trained without it is trained again"
    assert (out / "tiles" / "a.tfrecord").stat().st_mtime_ns == cut
    third = session(out, slides, ONE)
    assert third[0].kept == ["tiles"] and third[1] == again[1]


@pytest.mark.parametrize("name", ["slides.csv", "wanted.csv"])
@pytest.mark.parametrize("damage", ["emptied", "its header", "its first cells", "no text"])
def test_a_damaged_table_of_the_store_costs_the_step_and_no_slide(slides, tmp_path, name, damage):
    out, chosen = tmp_path / "run", Chosen({"a": {"coarse": "outlined"}, "b": {"fine": "whole"}})
    first = session(out, slides, SEVERAL, chosen)
    path, cut = out / "tiles" / name, (out / "tiles" / "a.tfrecord").stat().st_mtime_ns
    content = path.read_bytes()
    head, _, rows = content.partition(b"\n")
    path.write_bytes(
        {
            "emptied": b"",
            "its header": head.replace(b"status", b"stitus").replace(b"key", b"kez") + b"\n" + rows,
            "its first cells": head + b"\n" + b"x" * 40 + rows[40:],
            "no text": b"\xff\xfe\x00" + content[3:],
        }[damage]
    )
    again = session(out, slides, SEVERAL, chosen)
    assert again[0].repeated == ["tiles"] and again[1] == first[1] and again[2].equals(first[2])
    assert path.read_bytes() == content
    assert (out / "tiles" / "a.tfrecord").stat().st_mtime_ns == cut
    assert session(out, slides, SEVERAL, chosen)[0].kept == ["tiles"]


def test_what_no_grid_has_is_not_wanted_though_a_damaged_table_says_so(slides, tmp_path):
    out, chosen = tmp_path / "run", Chosen({"a": {"coarse": "outlined"}})
    first = session(out, slides, SEVERAL, chosen)
    table = out / "tiles" / "wanted.csv"
    for old, new in (("coarse", "course"), ("outlined", "outlaned")):
        table.write_text(table.read_text().replace(old, new))
        again = session(out, slides, SEVERAL, chosen)
        assert again[0].repeated == ["tiles"] and again[2].equals(first[2])
        assert table.read_text().count("coarse") == 1 and new not in table.read_text()


def test_the_plan_knows_that_tiles_are_to_be_cut_for_another_choice(slides, tmp_path):
    """Slide a is malignant, b benign."""
    out = tmp_path / "run"
    coarse, fine = asked_tiles({"malignant": ["coarse"]}), asked_tiles({"malignant": ["coarse"], "benign": ["fine"]})
    chosen = {coarse: Chosen({"a": {"coarse": "outlined"}})}
    chosen[fine] = Chosen({"a": {"coarse": "outlined"}, "b": {"fine": "whole"}})

    def stated(asks: Sequence[str]) -> dict[str, str]:
        plan = plan_of(SEVERAL, chosen[asks], asks)
        plan.step("cohort", print, needs=["tiles"], group="tiles", always=True)
        plan.step("train", print, needs=["cohort"], group="tiles", here=True)
        states, _ = states_of(
            SimpleNamespace(name="toy"), StatedSettings(slides, out=out), plan.steps.values(), {}, Run.finished
        )
        return {step.name: words for step, words in states if not step.always}

    session(out, slides, SEVERAL, chosen[coarse], coarse)
    with Run(out, "toy", Settings(slides), 1, print) as run:  # known by more than by its tiles
        look(Work(run, Settings(slides), {}), Step("cohort", "tiles", lambda work: Looked(1, 1), always=True))
        identity = run.record()["looked_at"]["cohort"]
        run.step("train", {"needs": {"cohort": identity}}, lambda scratch: [])
    assert stated(coarse) == {"tiles": "finished", "train": "finished"}
    assert stated(fine) == {"tiles": "to do: more is wanted", "train": "finished"}
    assert session(out, slides, SEVERAL, chosen[fine], fine)[0].repeated == ["tiles"]
    assert stated(coarse) == stated(fine) == {"tiles": "finished", "train": "finished"}
    session(out, slides, SEVERAL, chosen[coarse], coarse)
    assert stated(fine)["tiles"] == "finished", "what an earlier session wanted stays"
