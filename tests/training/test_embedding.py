"""A network that tells its input's distance: the same as numpy's, whatever stands behind its last map."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from melano_tf.explain.cam import gradient_map
from melano_tf.models.attention_transfer import build_classifier
from melano_tf.models.bag_models import build_bag_model
from melano_tf.models.bag_settings import BagKind, BagModelSettings
from melano_tf.models.biopsy_classifier import build_target, split_target
from melano_tf.models.seanet import build_source
from melano_tf.models.tta_and_prior_shift import answering, shifted
from melano_tf.models.zoome_network import build_zoome
from melano_tf.runs.run_folder import Run
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.splits.leaks import LeakError
from melano_tf.training.describe import Shown, describe
from melano_tf.training.embedding import bare, embedder, heard, look, telling
from melano_tf.training.familiarity import Familiarity, fit_familiarity, read_familiarity
from melano_tf.training.fed_cases import CHOSE, FED, Fed

PX = 32


@dataclass(frozen=True)
class Settings:
    """Of a run without a method."""

    preset: str = "demo"
    seed: int = 3


def pictures(count: int, seed: int) -> np.ndarray:
    """Smooth pictures of one colour each and a little noise, float32 (n, 32, 32, 3)."""
    rng = np.random.default_rng(seed)
    ramps = np.linspace(0.5, 1.0, PX)[None, :, None, None] * rng.uniform(60, 250, (count, 1, 1, 3))
    return (ramps + rng.normal(0, 3, (count, PX, PX, 3))).clip(0, 255).astype(np.float32)


def described(network: Any, inputs: Any, held: Any) -> Familiarity:
    """What is familiar to a network of these inputs."""
    made = embedder(network)
    assert made is not None
    parts = [{name: np.asarray(value) for name, value in made(x).items()} for x in (inputs, held)]
    rows = [(one["embedding"], one.get("look", np.zeros((len(one["embedding"]), 0)))) for one in parts]
    found = fit_familiarity(*rows[0], ["one"] * len(rows[0][0]), rows[1])
    assert found is not None
    return found


def networks() -> dict[str, tuple[keras.Model, Any]]:
    """Networks of pictures, each with how a picture is handed to it."""
    zoome, _ = build_zoome("resnext_standin", PX, 4, seed=1)
    student, _ = build_classifier("standin_residual", PX, 3, seed=2)
    source = build_source("standin", PX, seanet=True, head="gmp", seed=3)
    target = build_target(source, "bgas", 4, seed=4)
    told = np.array([[0.2, 0.0, 1.0, 0.0]], np.float32)
    return {
        "zoome": (zoome, lambda x: {"image": x, "metadata": np.repeat(told, len(x), axis=0)}),
        "student": (student, lambda x: {"image": x}),
        "mirrored": (answering(student, PX, 4, [1.0, 0.5, 0.2]), lambda x: {"image": x}),
        "told": (
            answering(zoome, PX, 4),
            lambda x: {"image": x, "metadata": np.repeat(told, len(x), axis=0)},
        ),
        "tile": (source, lambda x: x),
        "target": (split_target(target)[0], lambda x: x),
    }


@pytest.mark.parametrize("name", ["zoome", "student", "mirrored", "told", "tile", "target"])
def test_a_network_tells_what_numpy_says_and_answers_as_before(name: str) -> None:
    network, handed = networks()[name]
    known = described(network, pictures(24, 1), pictures(9, 2))
    shown = np.concatenate([pictures(4, 3), 255 - pictures(4, 3), np.full((1, PX, PX, 3), 128, np.float32)])
    answer, distance = heard(telling(network, known)(handed(shown), training=False))
    np.testing.assert_allclose(answer, network(handed(shown), training=False), atol=1e-6)
    made = embedder(network)
    assert made is not None
    found = {key: np.asarray(value) for key, value in made(shown).items()}
    np.testing.assert_allclose(distance, known.distance(found["embedding"], found["look"]), atol=1e-4)
    assert distance[-1] > 1.0  # a picture of one grey
    assert heard(network(handed(shown), training=False))[1] is None and telling(network, None) is network


def test_a_patients_metadata_and_mirror_images_say_nothing_of_the_distance() -> None:
    nets, shown = networks(), pictures(3, 5)
    zoome = nets["zoome"][0]
    told = telling(zoome, described(zoome, pictures(24, 1), pictures(9, 2)))
    blank, old = np.zeros((3, 4), np.float32), np.full((3, 4), 5.0, np.float32)
    (first, near), (second, far) = (heard(told({"image": shown, "metadata": one})) for one in (blank, old))
    np.testing.assert_array_equal(near, far)
    assert not np.allclose(first, second, atol=1e-7)
    student, mirrored = nets["student"][0], nets["mirrored"][0]
    known = described(student, pictures(24, 1), pictures(9, 2))
    views = heard(telling(answering(student, PX, 4), known)({"image": shown}))[1]
    np.testing.assert_allclose(views, heard(telling(student, known)({"image": shown}))[1], atol=1e-6)
    assert embedder(mirrored).outputs[0].shape[-1] == len(known.mean)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["mirrored", "told", "student"])
def test_a_map_is_that_of_the_network_that_a_model_brings_pictures_to(name: str) -> None:
    model, handed = networks()[name]
    large = np.repeat(np.repeat(pictures(2, 6), 2, axis=1), 2, axis=2) if name != "student" else pictures(2, 6)
    network, seen = bare(model, large)
    np.testing.assert_allclose(seen, pictures(2, 6), atol=1e-3)
    asked = {**handed(large), "image": seen}
    upright = network(asked, training=False)
    found = [gradient_map(network, asked, called, "features").maps for called in range(upright.shape[-1])]
    assert found[0].shape == (2, PX, PX) and max(each.max() for each in found) > 0  # a class may have none
    if name == "student":
        np.testing.assert_allclose(model(asked, training=False), upright)
    else:  # the model's answer is the mean over the mirror images of what this network says, and shifted
        views = [seen, seen[:, :, ::-1], seen[:, ::-1], seen[:, ::-1, ::-1]]
        mean = np.mean([np.asarray(network({**asked, "image": one}, training=False)) for one in views], axis=0)
        wanted = shifted(mean, np.array([1.0, 0.5, 0.2])) if name == "mirrored" else mean
        np.testing.assert_allclose(model(handed(large), training=False), wanted, atol=2e-3)


@pytest.mark.parametrize("kind", ["gated", "bgmp", "instance_max", "clam_multi", "transformer"])
@pytest.mark.parametrize("hidden", [(), (6,)])
def test_a_bag_is_told_apart_whatever_its_order_and_padding(kind: BagKind, hidden: tuple[int, ...]) -> None:
    settings = BagModelSettings(kind, hidden=hidden, attention_units=4, extremes=2, heads=2)
    network, rng = build_bag_model(8, 2, settings, seed=2), np.random.default_rng(3)

    def bags(count: int, shift: float = 0.0) -> dict[str, np.ndarray]:
        features = rng.normal(size=(count, 5, 8)).astype(np.float32) + np.arange(8, dtype=np.float32) + shift
        return {"features": features, "mask": np.ones((count, 5), bool)}

    known = described(network, bags(30), bags(10))
    told, near = telling(network, known), bags(4)
    assert told.output["distance"].shape == (None,)
    distance = heard(told(near))[1]
    made = embedder(network)
    assert made is not None
    own = np.asarray(made(near)["embedding"])
    np.testing.assert_allclose(distance, known.distance(own, np.zeros((4, 0))), atol=1e-4)
    padded = {
        "features": np.concatenate([near["features"][:, ::-1], np.full((4, 2, 8), 99, np.float32)], axis=1),
        "mask": np.concatenate([near["mask"], np.zeros((4, 2), bool)], axis=1),
    }
    np.testing.assert_allclose(heard(told(padded))[1], distance, atol=1e-3)
    foreign = {"features": -near["features"], "mask": near["mask"]}
    if not hidden:
        assert (np.asarray(heard(told(foreign))[1]) > 1.0).all()


def test_a_picture_looks_as_its_naive_numbers_say() -> None:
    shown = pictures(2, 7)
    x = shown[1].astype(np.float64) / 255
    naive = [*x.mean(axis=(0, 1)), *x.std(axis=(0, 1))]
    for step in (1, 2, 4, 8):
        naive += np.log(np.abs(x[step:] - x[:-step]).mean(axis=(0, 1)) + 1e-3).tolist()
        naive += np.log(np.abs(x[:, step:] - x[:, :-step]).mean(axis=(0, 1)) + 1e-3).tolist()
    np.testing.assert_allclose(np.asarray(look(shown))[1], naive, atol=1e-4)


def test_a_description_of_another_network_is_refused() -> None:
    nets = networks()
    known = described(nets["tile"][0], pictures(24, 1), pictures(9, 2))
    with pytest.raises(ValueError, match=r": its embedding is not the one that was described$"):
        telling(nets["zoome"][0], replace(known, mean=known.mean[:-1]))
    with pytest.raises(ValueError, match=r": the numbers of its pictures are not those that were described$"):
        telling(nets["tile"][0], replace(known, look_mean=known.look_mean[:-1]))


NAMES = [f"p{place}" for place in range(20)]


class TestDescribe:
    """Whom a description is made of."""

    def described(self, tmp_path: Path, sides: Sides) -> tuple[Fed, Familiarity | None]:
        """A student described on twenty pictures."""
        network, _ = build_classifier("standin_residual", PX, 3, seed=2)
        shown = pictures(20, 1)

        def batches(places: np.ndarray) -> Any:
            for start in range(0, len(places), 8):
                own = places[start : start + 8]
                yield {"x": {"image": shown[own]}, "id": np.array(NAMES, object)[own]}

        fed = Fed("net", sides, None)
        with Run(tmp_path / "run", "toy", Settings(), 1, lambda line: None) as run:
            describe(run, fed, network, Shown(NAMES, batches))
            return fed, read_familiarity(run.path("models", "net.keras"), None)

    def test_only_those_who_train_are_described_and_only_the_held_out_measured(self, tmp_path: Path) -> None:
        groups = {name: name for name in NAMES}
        fed, known = self.described(tmp_path, Sides(groups, NAMES[:9], NAMES[9:14], NAMES[14:]))
        assert known is not None
        assert (known.facts["described"], known.facts["measured"]) == (9, 5)
        assert list(fed.ids[FED]) == NAMES[:9] and list(fed.ids[CHOSE]) == NAMES[9:14]

    def test_too_few_leave_no_description_of_an_earlier_training(self, tmp_path: Path) -> None:
        groups = {name: name for name in NAMES}
        assert self.described(tmp_path, Sides(groups, NAMES[:9], NAMES[9:14]))[1] is not None
        assert self.described(tmp_path, Sides(groups, NAMES[:2], NAMES[9:14]))[1] is None

    def test_a_case_of_another_part_is_refused(self, tmp_path: Path) -> None:
        groups = {name: name for name in NAMES}
        sides = Sides(groups, NAMES[:9], (), NAMES[9:])
        fed = Fed("net", sides, None)
        with pytest.raises(LeakError, match="p9"):
            list(fed.also([{"id": np.array(["p9"])}]))
        assert self.described(tmp_path, sides)[1] is not None
