"""What all recipes look at before the first second: initial weights, and folders of the user's."""

from collections.abc import Callable
from pathlib import Path

import pytest

from melano_tf.errors import InputError
from melano_tf.papers.initial_weights import weights_key
from tests.papers.tiny import Finished

RECIPES = {
    "spitzoid": "--source.weights",
    "multimag": "--model.weights",
    "zoome": "--network.weights",
    "weighting": "--network.weights",
    "similarity": "--network.weights",
}


def test_the_key_of_weights_is_their_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one.weights.h5", tmp_path / "other.weights.h5"
    one.write_bytes(b"first")
    other.write_bytes(b"first")
    before = weights_key("standin", str(one))
    assert before == weights_key("resnext_standin", str(other)) and before is not None
    one.write_bytes(b"second")
    assert weights_key("standin", str(one)) != before
    assert weights_key("standin", str(other)) == before and weights_key("standin", "none") is None
    with pytest.raises(InputError, match="no such weights file"):
        weights_key("resnext_standin", str(tmp_path / "gone.h5"))
    with pytest.raises(InputError, match="vgg61"):
        weights_key("vgg61", "none")


@pytest.mark.parametrize("recipe", RECIPES)
def test_missing_weights_are_known_before_anything_is_written(
    inside: Callable[..., Finished], tmp_path: Path, recipe: str
) -> None:
    done = inside(recipe, "--out", str(tmp_path / "out"), RECIPES[recipe], str(tmp_path / "gone.weights.h5"))
    assert done.code == 2 and "gone.weights.h5: no such weights file" in done.errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("recipe", "arguments", "words"),
    [
        *((recipe, (option, "imagenet"), "has no ImageNet weights") for recipe, option in RECIPES.items()),
        ("spitzoid", ("--source.backbone", "vgg61"), "backbone 'vgg61': unknown; did you mean vgg1"),
        ("multimag", ("--model.backbones", "vgg61"), "backbone 'vgg61': unknown"),
        ("zoome", ("--network.backbone", "resnext50"), "did you mean torchvision_resnext50?"),
        ("zoome", ("--network.backbone", "vgg16"), "vgg16: has no residual blocks to put Zoom-SE after"),
        ("zoome", ("--comparators", "--network.maron", "vgg61"), "backbone 'vgg61': unknown"),
        ("zoome", ("--network.backbone", "torchvision_resnet50", "--network.weights", "imagenet"), "are not fetched"),
        ("zoome", ("--network.input-px", "128", "--store.stored-px", "128"), "takes images of 32 to 96 px, not 128"),
        ("weighting", ("--network.backbone", "vgg61"), "backbone 'vgg61': unknown"),
        ("similarity", ("--network.teacher", "vgg61"), "backbone 'vgg61': unknown"),
    ],
)
@pytest.mark.parametrize("asked", [(), ("--plan",)])
def test_a_network_that_cannot_be_had_is_known_before_anything_is_written(
    inside: Callable[..., Finished],
    tmp_path: Path,
    recipe: str,
    arguments: tuple[str, ...],
    words: str,
    asked: tuple[str, ...],
) -> None:
    done = inside(recipe, "--out", str(tmp_path / "out"), *arguments, *asked)
    assert done.code == 2 and words in done.errors and len(done.errors.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", [*RECIPES, "bags"])
@pytest.mark.parametrize(("name", "value"), [("level", "95"), ("level", "0"), ("repeats", "0")])
def test_how_it_is_judged_is_checked_before_anything_is_trained(
    inside: Callable[..., Finished], tmp_path: Path, recipe: str, name: str, value: str
) -> None:
    done = inside(recipe, "--out", str(tmp_path / "out"), f"--evaluation.{name}", value)
    assert done.code == 2 and f"evaluation.{name}" in done.errors and len(done.errors.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_folder_that_is_no_run_is_refused_and_stays_as_it_is(
    inside: Callable[..., Finished], tmp_path: Path, recipe: str
) -> None:
    names = ("images.csv", "0123456789abcdef.npy", "0123456789abcdef.json", ".x.1.partial.csv")
    for name in names:
        (tmp_path / name).write_text("mine")
    done = inside(recipe, "--out", str(tmp_path))
    assert done.code == 2 and "is not empty and holds no run" in done.errors
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "mine")
