"""Leaks planted in each recipe are caught twice: by the training, which refuses, and by the audit of what lies there.

Some trainings, or choices, of the shared tiny run are done anew with a slip of `plants`. With every refusal switched
off they are done all the same, and the audit must find it in the files.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from melano_tf.splits.disjoint_sides import Sides
from melano_tf.training.fed_cases import Fed
from tests.papers import bags_run, ham10000_run, similarity_run, tiny, tiny_multimag, weighting_run, zoome_run
from tests.papers.plants import PLANTS, TOGETHER, Plant
from tests.papers.tiny import Finished, TinyRun

Inside = Callable[..., Finished]
COMMANDS = {
    "spitzoid": ("spitzoid", *tiny.TINY, *tiny.EVERYTHING),
    "multimag": ("multimag", *tiny_multimag.TINY, *tiny_multimag.EVERYTHING),
    "zoome": ("zoome", *zoome_run.ZOOME, *zoome_run.ALL_OF_ZOOME),
    "weighting": ("weighting", *weighting_run.WEIGHTING),
    "ham10000": ("weighting", *ham10000_run.HAM10000),
    "similarity": ("similarity", *similarity_run.SIMILARITY),
    "bags": ("bags", *bags_run.BAGS),
}


def again(shared: TinyRun, folder: Path, plants: list[Plant]) -> tuple[str, ...]:
    """A copy of a recipe's tiny run whose planted steps are to be done anew; the command."""
    shutil.copytree(shared.folder, folder)
    for step in {step for plant in plants for step in plant.redone}:
        (folder / "steps" / f"{step}.json").unlink()
    command = COMMANDS[plants[0].run]
    return (*command, "--out", str(folder), *plants[0].more, "--figures", "none")  # which tell nothing of leaks


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


@pytest.mark.parametrize("name", [name for name in PLANTS if name.startswith("ham10000")])
def test_ham10000_refuses(name, tiny_ham10000, tmp_path, inside, monkeypatch) -> None:
    refused(tiny_ham10000, tmp_path / "run", PLANTS[name], inside, monkeypatch)


@pytest.mark.parametrize("names", [names for key, names in TOGETHER.items() if key.startswith("ham10000")])
def test_ham10000_is_audited(names, tiny_ham10000, tmp_path, inside, monkeypatch) -> None:
    audited(tiny_ham10000, tmp_path / "run", [PLANTS[name] for name in names], inside, monkeypatch)


@pytest.mark.parametrize("name", [name for name in PLANTS if name.startswith("bags")])
def test_bags_refuses(name, tiny_bags, tmp_path, inside, monkeypatch) -> None:
    refused(tiny_bags, tmp_path / "run", PLANTS[name], inside, monkeypatch)


@pytest.mark.parametrize("names", [names for key, names in TOGETHER.items() if key.startswith("bags")])
def test_bags_is_audited(names, tiny_bags, tmp_path, inside, monkeypatch) -> None:
    audited(tiny_bags, tmp_path / "run", [PLANTS[name] for name in names], inside, monkeypatch)
