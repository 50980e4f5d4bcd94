"""What every recipe promises, seen on the tiny runs that the whole suite shares. A sixth paper is one more `Case`."""

import json
import random
import re
import runpy
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from melano_tf.papers import PAPERS
from melano_tf.runs.atomic_files import read_json
from melano_tf.runs.sidecar import Sidecar
from melano_tf.training import pace
from tests import forked
from tests.conftest import SHARED_RUNS, group_of
from tests.papers import tiny, tiny_multimag
from tests.papers.similarity_run import SIMILARITY
from tests.papers.tiny import CHECKOUT, Finished, TinyRun, command, weights_of
from tests.papers.weighting_run import WEIGHTING
from tests.papers.zoome_run import ALL_OF_ZOOME, ZOOME


@dataclass(frozen=True)
class Case:
    """One recipe's tiny run, and where to look.

    Attributes:
        arguments: of the shared run.
        differs: a setting that it must announce as differing, and the paper's value.
        found: beginning of a line with the main result, which holds an interval.
        changed: arguments on top of these, with a setting of which few steps depend.
        repeated: how many steps then are done.
        planned: how many `--plan` says, where that is not known before what is looked at anew.
        touched: the models among them that end otherwise; None: not looked at.
        lost: steps that are forgotten before the run is killed.
        part: what of the outputs the killed run is asked for.
        model: that is asked for an answer.
        data: the option of a user's own data.
        weights: the option of the initial weights.
    """

    arguments: tuple[str, ...]
    differs: tuple[str, str]
    found: tuple[str, str]
    changed: tuple[str, ...]
    repeated: int
    touched: set[str] | None
    lost: tuple[str, ...]
    part: tuple[str, ...]
    model: str
    planned: int | None = None
    data: str = "--table"
    weights: str = "--network.weights"


CASES = {
    "spitzoid": Case(
        arguments=(*tiny.TINY, *tiny.EVERYTHING),
        differs=("source.backbone", "(paper: vgg16)"),
        found=("test      malignant biopsies", "interval"),
        changed=("--target.aggregation", "bgap", "--tables", "5", "--figures", "none"),
        repeated=1,
        touched={"target.keras"},
        lost=("source/final", "target/final", "source/seanet-standin-gmp/cohort-1"),
        part=("--tables", "4,5", "--figures", "none"),
        model="target.keras",
        data="--slides",
        weights="--source.weights",
    ),
    "multimag": Case(
        arguments=(*tiny_multimag.TINY, *tiny_multimag.EVERYTHING),
        differs=("model.backbones", "(paper: ['resnet50', 'vgg19'])"),
        found=("test      melanoma by slide", "interval"),
        changed=(
            *("--tables", "1,2", "--steps", "tables", "--evaluation.aggregation", "top"),
            *("--caps.separate", "40", "60", "80", "100"),
        ),
        repeated=2,  # the networks at 40x: another aggregation trains nothing
        planned=0,  # which tiles a cap leaves is looked at anew
        touched={"melanoma-40x-standin.keras", "melanoma-40x-standin_residual.keras"},
        lost=("train/melanoma-4x-standin", "train/melanoma-mixed-standin_residual"),
        part=("--tables", "1,2", "--figures", "none", "--steps", "train"),
        model="nevi-standin.keras",
        data="--slides",
        weights="--model.weights",
    ),
    "zoome": Case(
        arguments=(*ZOOME, *ALL_OF_ZOOME),
        differs=("network.backbone", "(paper: torchvision_resnext50)"),
        found=("folds     ZooME: ROC AUC", "interval"),
        changed=("--tables", "2", "--figures", "none", "--steps", "train", "--network.metadata-units", "8"),
        repeated=4,  # on two folds AlexNet with metadata and what it says, and none of the three without
        touched=None,
        lost=("model/final", "train/resnext_standin-zoom-metadata/fold-1"),
        part=("--tables", "1", "--figures", "none"),
        model="zoome.keras",
    ),
    "weighting": Case(
        arguments=WEIGHTING,
        differs=("network.backbone", "(paper: vgg16)"),
        found=("splits    flat network, Adam, plain cross-entropy: balanced accuracy", "interval"),
        changed=(
            *("--gamma", "2", "--tables", "2", "--figures", "none", "--strategies", "none"),
            *("--cells", "flat-adam-*-split-1"),
        ),
        repeated=1,  # the focal loss, and not cross-entropy
        touched={"flat-adam-fl-split-1.keras"},
        # A cell trained alone in another process is the one that the grid trained after others.
        lost=("train/flat-adam-fl-cb-split-2", "train/hierarchical-adam-fl-es-ohem-split-2"),
        part=("--tables", "2,3", "--steps", "train"),
        model="flat-adam-cel-cb-split-1.keras",
    ),
    "similarity": Case(
        arguments=SIMILARITY,
        differs=("network.student", "(paper: resnet50)"),
        found=("networks  HAM test, divided by lesion: the baseline's accuracy", "interval"),
        changed=("--transfer.weight", "10", "--tables", "5,6", "--figures", "none"),
        repeated=4,  # both students of both partitions, and neither baseline
        touched={f"layers-{layer}-{split}.keras" for layer in (1, 4) for split in ("cluster", "lesion")},
        lost=("cluster/teacher", "cluster/groups", "edges", "partition", "train/layers-4-lesion"),
        part=("--tables", "6", "--figures", "none"),
        model="layers-1-cluster.keras",
    ),
}
Inside = Callable[..., Finished]


@pytest.fixture(params=list(CASES))
def paper(request: pytest.FixtureRequest) -> str:
    """A recipe's command; by its name in theirs, `conftest.group_of` keeps its tests beside its shared run."""
    return str(request.param)


@pytest.fixture
def case(paper: str) -> Case:
    """What is known of the recipe's tiny run."""
    return CASES[paper]


@pytest.fixture
def shared(paper: str, request: pytest.FixtureRequest) -> TinyRun:
    """The shared run; no test changes it."""
    run: TinyRun = request.getfixturevalue(SHARED_RUNS[paper])
    return run


@pytest.fixture
def copy(shared: TinyRun, tmp_path: Path) -> Path:
    """A copy of the shared run that a test may change."""
    return Path(shutil.copytree(shared.folder, tmp_path / "run"))


def test_every_recipe_is_here(request: pytest.FixtureRequest) -> None:
    # What bags promises of the same kind stands in test_bags_run: it is given features, and looks at its table anew.
    assert {*CASES, "bags"} == set(SHARED_RUNS) == set(PAPERS)
    for item in request.session.items:  # on one worker, all that one shared run is for
        used = [recipe for recipe, fixture in SHARED_RUNS.items() if fixture in getattr(item, "fixturenames", ())]
        assert not used or group_of(item.nodeid) == used[0], item.nodeid


def test_it_says_first_what_it_is_and_last_what_it_found(paper: str, case: Case, shared: TinyRun) -> None:
    lines = shared.first.shown.splitlines()
    assert lines[0].startswith(f"{paper}: ") and lines[0].endswith("Research only.") and "PHANTOMS" in lines[1]
    assert any(all(word in line for word in case.differs) for line in lines)
    assert any(line.startswith(case.found[0]) and case.found[1] in line for line in lines[-25:]), lines[-25:]
    assert lines[-2] == f"record    {shared.folder / 'run.json'}"
    assert lines[-1].startswith(f"report    {shared.folder / 'report.html'} ")
    assert not [word for word in ("Traceback", "WARNING", "oneDNN") if word in shared.first.errors]


def test_the_report_stands_and_fetches_nothing(paper: str, shared: TinyRun) -> None:
    page = (shared.folder / "report.html").read_text(encoding="utf-8")
    record = read_json(shared.folder / "run.json")
    assert record["recipe"] == paper and record["sessions"][0]["command"][1] == paper
    assert f"{len(record['differs'])} settings of the method differ" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert not (shared.folder / "work").exists() and record["failed"] == {}


def test_the_notebook_shows_a_finished_run_and_nothing_is_done_again(
    paper: str, copy: Path, inside: Inside, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So the same command again repeats nothing: the notebook gives the run its own settings."""
    before, steps = weights_of(copy), len(read_json(copy / "run.json")["durations"])
    monkeypatch.setattr(sys, "argv", [f"{paper}.py", "--run", str(copy)])
    runpy.run_path(str(CHECKOUT / "experiments" / f"{paper}.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert f"did 0 steps, kept {steps} finished ones from before" in shown
    for path in (copy / "tables").glob("table*.md"):
        assert "-" in path.stem or path.read_text(encoding="utf-8") in shown
    assert all(str(path) in shown for path in (copy / "figures").glob("*.png"))
    assert weights_of(copy) == before


def test_the_plan_names_what_would_be_done_and_does_nothing(
    paper: str, case: Case, shared: TinyRun, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "measure", lambda *_: pace.Pace(3600.0, 4, 0, 0, 0))  # see test_costs.py

    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in shared.folder.rglob("*")}

    before, known = state(), case.repeated if case.planned is None else case.planned
    for arguments, count in (((), 0), (case.changed, known)):
        planned = inside(paper, "--out", str(shared.folder), *case.arguments, *arguments, "--plan")
        assert planned.code == 0, planned.errors
        assert f"{count} steps would be done; nothing was done (--plan)" in planned.shown
        assert ("; 0 trainings to do" in planned.shown) != (" in all at most, " in planned.shown)  # how long that takes
        assert ("finished below means, if what is looked at anew is as it was" in planned.shown) == bool(arguments)
    assert state() == before


def test_a_changed_setting_repeats_what_depends_on_it_and_nothing_else(
    paper: str, case: Case, copy: Path, inside: Inside
) -> None:
    before = weights_of(copy)
    changed = inside(paper, "--out", str(copy), *case.arguments, *case.changed)
    assert changed.code == 0, changed.errors
    assert f"did {case.repeated} steps" in changed.shown
    after = weights_of(copy)
    assert set(after) == set(before)
    if case.touched is not None:
        assert {name for name in after if after[name] != before[name]} == case.touched


def test_a_run_killed_at_random_ends_with_the_same_weights(paper: str, case: Case, copy: Path) -> None:
    before = weights_of(copy)
    for step in case.lost:
        (copy / "steps" / f"{step}.json").unlink()
    kept = {path: read_json(path)["finished"] for path in (copy / "steps").rglob("*.json")}
    arguments = [paper, "--out", str(copy), *case.arguments, *case.part]
    killed = forked.start(*arguments, cwd=CHECKOUT)
    time.sleep(random.Random(paper).uniform(1, 7))  # moments drawn anew each time are experiments/storms.py's
    killed.process.kill()
    killed.wait()
    last = command(*arguments)
    assert last.code == 0, last.errors
    assert weights_of(copy) == before
    assert {path: read_json(path)["finished"] for path in kept} == kept


@pytest.mark.parametrize(
    "option, value, words",
    [
        ("weights", "gone.weights.h5", "gone.weights.h5: no such weights file"),
        ("data", "gone.csv", "gone.csv: "),
        ("--tables", "99", "--tables 99: give numbers "),
        ("--steps", "tabels", "--steps tabels: no step 'tabels'"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_drawn_or_trained(
    paper: str, case: Case, tmp_path: Path, inside: Inside, option: str, value: str, words: str
) -> None:
    given = str(tmp_path / value) if "." in value else value
    name = {"weights": case.weights, "data": case.data}.get(option, option)
    images = ("--images", str(tmp_path)) if (option, name) == ("data", "--table") else ()
    done = inside(paper, "--preset", "demo", "--out", str(tmp_path / "out"), name, given, *images)
    assert done.code == 2 and words in done.errors and done.errors.startswith("melano_tf: ")
    assert all(line.startswith("  - ") for line in done.errors.splitlines()[1:]), "a line, and one for each fault"
    assert not list((tmp_path / "out").rglob("*.tiff")) and not (tmp_path / "out" / "models").exists()


def test_a_folder_that_is_no_run_is_refused_and_stays_as_it_is(paper: str, inside: Inside, tmp_path: Path) -> None:
    names = ("images.csv", "0123456789abcdef.npy", "0123456789abcdef.json", ".x.1.partial.csv")
    for name in names:
        (tmp_path / name).write_text("mine")
    done = inside(paper, "--out", str(tmp_path))
    assert done.code == 2 and "is not empty and holds no run" in done.errors
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "mine")


def test_predict_answers_with_one_of_its_models(case: Case, shared: TinyRun, tmp_path: Path, inside: Inside) -> None:
    model = shared.folder / "models" / case.model
    found = [path for kind in ("*.tiff", "*.jpg") for path in sorted((shared.folder / "phantoms").rglob(kind))]
    asked = ("predict", "--model", str(model), "--input", str(found[0]), "--out", str(tmp_path / "answer"))
    done = inside(*asked, "--answer-anyway")  # of so few cases the limit is no more than a number
    assert done.code == 0, done.errors
    assert "not a medical device" in done.shown and "distance: from" in done.shown
    answer = json.loads((tmp_path / "answer" / "prediction.json").read_text())
    classes = Sidecar.read(model).classes
    assert set(answer["probabilities"]) == set(classes) and answer["decision"] in classes
    assert 0 <= answer["distance"] < 100
    assert sum(answer["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
    assert (answer["threshold"] is None) == (len(classes) > 2)
