"""What a run says that it will cost, before it begins."""

import dataclasses
import functools
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError, RunError
from melano_tf.models.mixup_layer import mixing
from melano_tf.papers import PAPERS, costs, shell
from melano_tf.papers.bags.loads import sizes_of
from melano_tf.papers.bags.settings import MODELS
from melano_tf.papers.costs import Bill, bill, check_affordable, extent_of, images_extent, side_by_side, steps_of, told
from melano_tf.papers.plan import Extent, Load, Step
from melano_tf.papers.run_settings import Running
from melano_tf.papers.shell import planned
from melano_tf.papers.similarity.clusters import teacher_load
from melano_tf.phantoms.feature_files import FeaturePhantomSettings, draw_features
from melano_tf.phantoms.skin.patients import PhantomDermoscopySettings, plan_images
from melano_tf.pipelines.processes import WorkerDied
from melano_tf.training import pace
from melano_tf.training.fit import Network
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.pace import Pace, measure


@dataclasses.dataclass(frozen=True)
class Settings(Running):
    cache_mib: int = 512
    preset: str = "paper"


SETTINGS = Settings()

TWO_HOSTS = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}


def small() -> Network:
    """512 numbers in, four out."""
    inputs = keras.Input((8, 8, 8), name="image")
    x = keras.layers.Dense(4, use_bias=False)(keras.layers.Flatten()(inputs))
    return Network(model := keras.Model({"image": inputs}, x), make_optimizer("adam", 0.1), model)


def recipe(name: str) -> Any:
    return importlib.import_module(f"{PAPERS[name][0]}.settings").RECIPE


def test_steps_are_epochs_of_whole_batches_of_what_there_is_at_most() -> None:
    load = Load("n", small, epochs=3, batch=8, of="tiles", share=0.7)
    extent = Extent({"slides": 2, "tiles": 31})
    assert steps_of(load, extent) == 3 * 3  # 22 tiles
    assert steps_of(dataclasses.replace(load, most=9), extent) == 3 * 2
    assert steps_of(dataclasses.replace(load, of="slides", batch=1), extent) == 3 * 2
    # Of nine steps the epochs are multiplied until there are ten; a choice among four is four trainings.
    assert steps_of(dataclasses.replace(load, least=10), extent) == 18
    assert steps_of(dataclasses.replace(load, least=9), extent) == 9
    assert steps_of(dataclasses.replace(load, times=4), extent) == 4 * 9


def test_what_is_held_at_a_time() -> None:
    load = Load("n", small, epochs=1, batch=20, of="tiles", share=1.0)
    assert [load.at_once(parts, 1) for parts in (0, 4, 64)] == [20, 4, 20] and load.at_once(0, 3) == 7
    assert dataclasses.replace(load, whole=True).at_once(4, 1) == 20
    bag = dataclasses.replace(load, batch=1, bag=12, held=6)
    assert bag.at_once(4, 1) == 6 and dataclasses.replace(bag, held=16).at_once(0, 1) == 12
    teacher = teacher_load(recipe("similarity").preset("paper"))
    assert teacher.at_once(4, 1) == teacher.batch  # its loss compares samples: `fit` leaves its batch whole


def test_what_a_network_costs_is_measured() -> None:
    found = measure(small, 16)
    assert found.pictures == 16 and 0 < found.seconds < 1
    kernel = 512 * 4 * 4
    assert found.saved == kernel and found.activations == (512 + 512 + 4) * 4
    # Weights, gradients, Adam's two moments, its step and its rate.
    assert 4 * kernel < found.state < 4 * kernel + 32


def test_a_batch_that_would_take_long_is_judged_by_a_few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "timed", lambda step, batch: 0.5 * len(batch["id"]))
    assert measure(small, 4).pictures == measure(small, 5).pictures == 4 and measure(small, 4).seconds == 0.5
    monkeypatch.setattr(pace, "PATIENCE_S", 0.5 * 5 * pace.STEPS)
    assert measure(small, 5).pictures == 5 and measure(small, 6).pictures == 4


def with_room(most: int) -> Callable[[], Network]:
    """A network for which there is no memory once it is given more samples than these at a time."""

    def room(samples: Any) -> Any:
        if samples > most:
            raise MemoryError(f"{samples} samples")
        return np.float32(1)

    class Room(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * tf.ensure_shape(tf.numpy_function(room, [tf.shape(x)[0]], tf.float32), [])

    def build() -> Network:
        inputs = keras.Input((4,), name="image")
        model = keras.Model({"image": inputs}, keras.layers.Dense(1)(Room()(inputs)), name="wide")
        return Network(model, make_optimizer("adam", 0.1), model)

    return build


def test_a_batch_is_measured_in_the_parts_that_it_is_done_in() -> None:
    assert measure(with_room(16), 16).fits
    found = measure(with_room(15), 16)
    assert not found.fits and found.pictures == 4 and found.seconds > 0  # known by the few pictures before it
    found = measure(with_room(3), 16, parts=3)
    assert found.fits and found.pictures == 16
    with pytest.raises(InputError, match=r"^wide: there is no memory .* a step of 4 pictures; .*--micro-batch"):
        measure(with_room(3), 16)


def test_the_layers_of_a_network_within_the_network_are_counted() -> None:
    inner = small()
    share, picture, flat, logits = 1, 512, 512, 4
    kept = sum(pace._bytes(each) for each in pace.outputs_of(mixing(inner.trained)))
    assert kept == 4 * (share + 2 * picture + flat + logits)  # the picture also blended
    inputs = keras.Input((8, 8, 8))
    stack = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)])
    assert sum(pace._bytes(each) for each in pace.outputs_of(keras.Model(inputs, stack(inputs)))) == 4 * (512 * 2 + 4)


@pytest.mark.parametrize(
    ("samples", "batch", "plan", "measured"),
    [(1_800 * 64, 64, False, True), (9_999, 1, False, False), (100, 1, True, True)],
)
def test_a_run_is_measured_by_its_work_and_not_by_its_steps(
    monkeypatch: pytest.MonkeyPatch, samples: int, batch: int, plan: bool, measured: bool
) -> None:
    monkeypatch.setattr(pace, "measure", lambda *_: Pace(0.5, 4, 2**30, 2**28, 2**30))
    monkeypatch.setattr(costs, "extent_of", lambda *_: Extent({"tiles": samples}))
    steps = [Step("train", "train", print, load=Load("one", small, epochs=1, batch=batch, of="tiles", share=1.0))]
    found = bill(SimpleNamespace(extent="here"), dataclasses.replace(SETTINGS, plan=plan), steps, steps, measured=True)
    assert (found.hours is not None) == measured


def test_what_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "measure", lambda *_: Pace(0.5, 4, 2**30, 2**28, 2**30, fits=False))
    monkeypatch.setattr(costs, "extent_of", lambda *_: Extent({"tiles": 16_000}))
    one = Load("one", small, epochs=1, batch=16, of="tiles", share=1.0)
    loads = (one, dataclasses.replace(one, network="other", whole=True))
    steps = [Step(f"train/{load.network}", "train", print, load=load) for load in loads]
    shown = bill(SimpleNamespace(extent="here"), SETTINGS, steps, steps, measured=True).lines
    said = "there is no memory here for a step of 16 pictures at a time: take a smaller batch"
    assert f"cost      one: {said} or give --micro-batch" in shown and f"cost      other: {said}" in shown


def test_before_others_train_on_gpus_networks_are_measured_in_a_process_that_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed: list[Any] = []

    def elsewhere(function: Any, items: Any, workers: int) -> Any:
        handed.append((function, *cloudpickle.loads(items[0])))
        return [(0, {"one": Pace(0.5, 4, 1, 1, 1)} if len(handed) == 1 else WorkerDied())]

    monkeypatch.setattr(costs, "has_gpu", lambda: True)
    monkeypatch.setattr(costs, "spread", elsewhere)
    settings = dataclasses.replace(SETTINGS, gpus=(1, 2))
    load = Load("one", small, epochs=1, batch=16, of="tiles", share=1.0)
    found = costs._paces(settings, {"one": (load, 1)}, (1, 1))
    function, given, networks, instances = handed[0]
    assert found["one"].seconds == 0.5 and function is costs._paces_there
    assert (given, instances) == (settings, (1, 1)) and networks["one"][0].build().trained.count_params() == 512 * 4
    with pytest.raises(RunError, match="measuring one: its process was killed twice"):
        costs._paces(settings, {"one": (load, 1)}, (1, 1))
    here = [dataclasses.replace(settings, plan=True), dataclasses.replace(settings, gpus=())]
    assert all(costs._paces(each, {"one": (load, 1)}, (1, 1))["one"].pictures == 16 for each in here)
    assert len(handed) == 2


def test_the_bill_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def measured(build: Any, pictures: int, step: Any, bag: bool, instances: Any, parts: int = 0, few: int = 4) -> Pace:
        asked.append((pictures, bag, parts, few))
        return Pace(0.5, 4, 2**30, 2**28, 2**30)

    monkeypatch.setattr(pace, "measure", measured)
    monkeypatch.setattr(costs, "extent_of", lambda *_: Extent({"slides": 4, "tiles": 4000}, {"tiles": 2**31}))
    one = Load("one", small, epochs=10, batch=8, of="tiles", share=1.0)
    bags = Load("bags", small, epochs=100, batch=1, of="slides", share=0.5, bag=30, held=6, passes=2.0)
    steps = [Step(f"train/{i}", "train", print, load=load) for i, load in enumerate((one, one, bags, None))]
    billed = functools.partial(bill, SimpleNamespace(extent="here"), steps=steps, undone=steps, measured=True)
    found = billed(SETTINGS)
    assert asked == [(8, False, 0, 4), (30, True, 0, 12)]  # each network once; of a bag two chunks first
    # 2 x 5,000 steps of 8 x 0.5 s, and 200 of 30 x 0.5 s, twice the work
    assert found.hours == pytest.approx((2 * 5000 * 4 + 200 * 15 * 2) / 3600)
    shown = "\n".join(found.lines)
    assert "4 slides, 4,000 tiles at most; 3 trainings to do, 10,200 steps" in shown
    assert "about 3.0 for a step of one, and up to 0.5 for tiles held" in shown  # 1 + 8 / 4
    assert "disk, GiB: tiles 2.0, models 3.0" in shown
    assert "in all at most, one after the other (measured" in found.lines[-3]
    spread = billed(dataclasses.replace(SETTINGS, micro_batch=4, gpus=(0, 1)))
    assert spread.hours == pytest.approx((5000 * 4 + 200 * 15 * 2) / 3600)  # the bags after one of the others
    assert (
        "7.2 h on 2 GPUs, one training on each" in spread.lines[-3] and "12.8 h one after the other" in spread.lines[-3]
    )
    assert "about 2.5 for a step of bags, and up to 0.5 for tiles held, in each of 2 processes" in spread.lines[-2]
    assert asked[2:] == [(8, False, 4, 4), (30, True, 4, 12)]
    wide = [dataclasses.replace(step, load=dataclasses.replace(one, whole=True)) for step in steps[:2]]
    parts = billed(dataclasses.replace(SETTINGS, micro_batch=4), steps=wide, undone=wide)
    assert "about 3.0 for a step of one" in parts.lines[-2] and asked[-1] == (8, False, 0, 4)

    monkeypatch.setenv("TF_CONFIG", json.dumps(TWO_HOSTS))
    assert billed(SETTINGS).hours == found.hours  # no --mirror
    mirrored = dataclasses.replace(SETTINGS, mirror=True)
    hosts = billed(mirrored)
    assert hosts.hours == pytest.approx((2 * 5000 * 4 / 2 + 200 * 15 * 2) / 3600)  # bags are not spread
    assert ": 5.6 h on 2 devices" in "\n".join(hosts.lines) and ": 1.7 h" in "\n".join(hosts.lines)
    assert "about 2.5 for a step of bags" in "\n".join(hosts.lines)  # 1 + 4 / 4 of the other
    monkeypatch.setattr(costs, "_gpus", lambda: 4)
    monkeypatch.delenv("TF_CONFIG")
    asked.clear()
    gpus = billed(mirrored)
    assert asked == [(2, False, 0, 4), (30, True, 0, 12)]  # of a batch each device's own part
    assert gpus.hours == pytest.approx((2 * 5000 * 4 / 4 + 200 * 15 * 2) / 3600)
    assert "h on 4 devices in all at most" in gpus.lines[-3]
    monkeypatch.setattr(costs, "_gpus", lambda: 0)

    asked.clear()
    unmeasured = billed(SETTINGS, measured=False)
    assert unmeasured.hours is None and len(unmeasured.lines) == 2 and not asked
    assert billed(SETTINGS, undone=steps[2:]).hours is None and not asked
    assert bill(SimpleNamespace(extent=""), SETTINGS, steps, steps, measured=True) == Bill()


def chained() -> list[Step]:
    """Two cohorts: a source, a choice of tiles that takes no time, and two targets on it; the first source is done."""
    steps = []
    for cohort in "ab":
        steps += [
            Step(f"source/{cohort}", "source", print),
            Step(f"choice/{cohort}", "choice", print, needs=(f"source/{cohort}",), always=True),
            Step(f"target/{cohort}/1", "target", print, needs=(f"choice/{cohort}",)),
            Step(f"target/{cohort}/2", "target", print, needs=(f"choice/{cohort}",)),
        ]
    return steps


def test_side_by_side_a_training_waits_for_what_it_stands_on_and_for_a_place() -> None:
    seconds = {"source/a": 5.0, "target/a/1": 2.0, "target/a/2": 7.0, "source/b": 6.0, "target/b/1": 3.0}
    took = functools.partial(side_by_side, chained(), seconds)
    assert took(1) == sum(seconds.values())
    # Two places: both sources, until 5 and 6; the targets of a from 5 to 7 and from 6 to 13; that of b from 7 to 10.
    assert took(2) == 13
    assert took(3) == took(100) == 12  # source/a and its longer target
    only = side_by_side(chained(), {"target/a/1": 2.0, "target/b/1": 3.0}, 2)
    assert only == 3  # the sources are done


@pytest.mark.parametrize(
    ("running", "gpus", "places", "words"),
    [
        ({}, 0, 1, "15.0 h on this processor in all at most, one after the other"),
        ({"jobs": 3}, 0, 3, "6.0 h on this processor in all, 3 at a time of 2 threads each, if they do not slow"),
        ({"jobs": 40}, 0, 6, "6.0 h on this processor in all, 6 at a time of 1 thread each"),
        ({"jobs": 3, "threads": 3}, 0, 2, "9.0 h on this processor in all, 2 at a time of 3 threads each"),
        (
            {"jobs": 3, "threads": 6},
            0,
            1,
            "15.0 h on this processor in all at most, one after the other: its processes",
        ),
        ({"jobs": 3}, 1, 1, "15.0 h on a GPU in all at most, one after the other: its processes share the device"),
        ({"gpus": (1, 3)}, 4, 2, "9.0 h on 2 GPUs, one training on each, in all at most"),
        (
            {"scheduler": "tcp://there:1"},
            0,
            1,
            "15.0 h on this processor in all at most, one after the other; what the",
        ),
    ],
)
def test_the_hours_are_those_of_so_many_trainings_at_a_time(
    running: dict[str, Any], gpus: int, places: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five trainings of three hours each, of which two stand on the first."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setattr(costs, "_gpus", lambda: gpus)
    monkeypatch.setattr(costs, "extent_of", lambda *_: Extent({"tiles": 8 * 1000}))
    monkeypatch.setattr(pace, "measure", lambda *_: Pace(3 * 3600 / 8000, 8, 2**30, 2**28, 2**30))
    monkeypatch.setattr(costs, "_paces", costs._paces_here)
    load = Load("one", small, epochs=1, batch=8, of="tiles", share=1.0)
    steps = [Step(f"train/{i}", "train", print, needs=("train/0",) if i > 2 else (), load=load) for i in range(5)]
    settings = dataclasses.replace(SETTINGS, **running)
    found = bill(SimpleNamespace(extent="here"), settings, steps, steps, measured=True)
    assert costs.at_a_time(settings) == places
    assert f"cost      {words}" in "\n".join(found.lines)
    assert found.hours == pytest.approx(float(words.split()[0]))


def test_more_than_a_day_without_a_gpu_wants_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "has_gpu", lambda: False)
    with pytest.raises(InputError, match=r"no GPU, and the run would take it about 2\.5 days; --yes"):
        check_affordable(Bill(hours=60.0), SETTINGS)
    for hours, more in ((None, {}), (24.0, {}), (60.0, {"yes": True}), (60.0, {"scheduler": "tcp://there:1"})):
        check_affordable(Bill(hours=hours), dataclasses.replace(SETTINGS, **more))
    monkeypatch.setattr(costs, "has_gpu", lambda: True)
    check_affordable(Bill(hours=60.0), SETTINGS)


def test_a_run_that_is_not_affordable_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[bool] = []

    def dear(recipe: Any, settings: Any, steps: Any, undone: Any, measured: bool) -> Bill:
        asked.append(measured)
        assert {step.name for step in undone} == {"tiles", "source/final", "target/final"}
        return Bill(["cost      much"], 60.0)

    monkeypatch.setattr(shell, "bill", dear)
    monkeypatch.setattr(shell, "configure", lambda *_: 1)
    monkeypatch.setattr(costs, "has_gpu", lambda: False)
    said: list[str] = []
    for preset in ("demo", "paper"):
        settings = dataclasses.replace(recipe("spitzoid").preset(preset), out=tmp_path / "run", tables=(5,), figures=())
        settings = dataclasses.replace(settings, source=dataclasses.replace(settings.source, weights="none"))
        with pytest.raises(InputError, match="--yes begins all the same"):
            shell.reproduce(recipe("spitzoid"), settings, said.append)
    assert asked == [False, True]  # a demo is not measured
    assert said.count("cost      much") == 2 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name in PAPERS if name != "bags"])
@pytest.mark.parametrize("preset", ["paper", "demo"])
def test_every_training_of_a_paper_is_on_the_bill(name: str, preset: str) -> None:
    """None that builds a network is forgotten, and equal words stand for equal networks."""
    one = recipe(name)
    settings = one.preset(preset)
    if name == "weighting":
        settings = dataclasses.replace(settings, gamma="auto")
    _, steps, _ = planned(one, settings)
    extent = extent_of(one, settings)
    assert all(count > 0 for count in extent.counts.values())
    trainings = [step for step in steps if step.weights or step.name.startswith("target")]
    assert trainings and all(step.load is not None for step in trainings)
    cloudpickle.loads(cloudpickle.dumps([step.load for step in trainings]))  # to be measured in another process
    batches = {step.load.network: set() for step in trainings if step.load}
    for step in trainings:
        if step.load is not None:
            assert steps_of(step.load, extent) >= step.load.epochs
            batches[step.load.network].add((step.load.batch, step.load.bag))
    assert all(len(each) == 1 for each in batches.values())


def test_the_choice_of_gamma_and_the_warm_starts_are_on_the_bill() -> None:
    one = recipe("weighting")
    settings = dataclasses.replace(one.preset("paper"), figures="none")
    extent = extent_of(one, settings)

    def counted(**changed: Any) -> tuple[str, dict[str, Load]]:
        warm = dataclasses.replace(settings.training, warm_epochs=changed.pop("warm_epochs", 0))
        asked = dataclasses.replace(settings, training=warm, **changed)
        _, steps, _ = planned(one, asked)
        return bill(one, asked, steps, steps, measured=False).lines[0], {step.name: step.load for step in steps}

    assert "; 80 trainings to do" in counted()[0]
    told, loads = counted(gamma="auto", warm_epochs=3)
    # Four gammas for each of four tables and two splits; warm starts of two networks on two splits, and of each choice.
    assert f"; {80 + 32 + 4 + 8} trainings to do" in told
    cell, gamma = loads["train/flat-sgd-fl-split-1"], loads["gamma/flat-sgd-split-1"]
    assert gamma.network == cell.network and steps_of(gamma, extent) == pytest.approx(
        4 * (1 - settings.splits.hold_out) * steps_of(cell, extent), rel=0.05
    )
    assert gamma.models == 0 and loads["warm/flat-split-1"].epochs == loads["warm/flat-sgd-split-1-gamma"].epochs == 3
    assert steps_of(loads["warm/flat-split-1"], extent) * cell.epochs == steps_of(cell, extent) * 3


def test_features_that_a_run_keeps_are_on_the_bill() -> None:
    """Four views of each image, in float16, as the frozen part of MobileNet gives them: a sixteenth of the side."""
    one = recipe("weighting")
    settings = dataclasses.replace(
        one.preset("ham10000"), network=dataclasses.replace(one.preset("ham10000").network, weights="none", input_px=96)
    )
    found = extent_of(one, settings)
    images = found.counts["images"]
    assert found.disk == {"decoded images": images * 150 * 150 * 3, "features": images * 4 * 6 * 6 * 512 * 2}
    assert set(extent_of(one, dataclasses.replace(settings, tables=(1,))).disk) == {"decoded images"}
    assert set(extent_of(one, one.preset("paper")).disk) == {"decoded images"}


def test_a_short_training_of_multimags_demo_is_stretched_on_the_bill() -> None:
    one = recipe("multimag")
    _, steps, _ = planned(one, one.preset("demo"))
    loads = [step.load for step in steps if step.load is not None]
    assert {load.least for load in loads} == {one.preset("demo").model.least_steps} == {200}
    assert all(steps_of(load, Extent({"tiles": 40})) >= 200 for load in loads)


def test_the_bill_of_the_demos_networks_can_be_measured() -> None:
    """The bags of spitzoid in chunks of the settings' size; the others are built in the same way."""
    one = recipe("spitzoid")
    demo = one.preset("demo")
    settings = dataclasses.replace(
        demo,
        source=dataclasses.replace(demo.source, input_px=48),
        target=dataclasses.replace(demo.target, chunk=3),
    )
    _, steps, _ = planned(one, settings)
    [load] = [step.load for step in steps if step.load is not None and step.name == "target/final"]
    done: list[Any] = []

    def step(network: Any) -> Any:
        assert load.step is not None
        done.append(load.step(network))
        return done[0]

    found = measure(load.build, 12, step, bag=True, few=6)
    assert done[0].chunk == 3 and load.held == 3
    assert found.pictures in (6, 12) and found.seconds > 0 and found.activations > 48 * 48 * 3 * 4


def test_bags_are_on_the_bill_and_measured_at_their_size(tmp_path: Path) -> None:
    """The user's files by their heads, the phantoms as they are drawn; every network but the logistic regression."""
    drawn = FeaturePhantomSettings(patients=7, slides=3, tiles=30, width=12)
    table = draw_features(tmp_path / "features", drawn, 5)
    one = recipe("bags")
    phantoms = dataclasses.replace(one.preset("demo"), phantom=drawn, models="all")
    own = dataclasses.replace(phantoms, features=table.parent, table=table)
    sizes, guessed = sizes_of(own), sizes_of(phantoms)
    assert (sizes.bags, sizes.width, sizes.classes) == (guessed.bags, guessed.width, guessed.classes) == (19, 12, 2)
    assert sizes.usual == pytest.approx(guessed.usual, rel=0.3) and 30 < sizes.largest <= guessed.largest == 40
    by_patient = dataclasses.replace(own, bag="patient")
    assert sizes_of(by_patient).bags == 7 and sizes_of(by_patient).largest > 60
    few = dataclasses.replace(own, training=dataclasses.replace(own.training, max_instances=9))
    assert extent_of(one, few).instances == (9, 9) and extent_of(one, own).counts["bags"] == 19

    _, steps, _ = planned(one, own)
    trainings = [step for step in steps if step.name.startswith(("train/", "model/"))]
    assert {step.name for step in trainings if step.load is None} == {f"train/mean/fold-{fold}" for fold in (1, 2, 3)}
    loads = {step.load.network: step.load for step in trainings if step.load is not None}
    assert set(loads) == set(MODELS) - {"mean"}
    assert steps_of(loads["clam"], extent_of(one, own)) == 25 * 3  # three quarters of two thirds of 19, by four
    found = measure(loads["clam"].build, 4, loads["clam"].step, False, (30, 40))
    more = measure(loads["clam"].build, 4, loads["clam"].step, False, (30, 80))
    assert found.pictures == 4 and found.seconds > 0 and 1.5 < more.activations / found.activations < 2.0


def test_images_of_phantoms_are_about_those_that_are_drawn() -> None:
    drawn = PhantomDermoscopySettings(layout="isic2018", patients=150)
    found = images_extent(SimpleNamespace(table=(), phantom=drawn, store=SimpleNamespace(stored_px=64)))
    assert found.counts["images"] == pytest.approx(len(plan_images(drawn, 3)), rel=0.15)
    assert found.disk["decoded images"] == found.counts["images"] * 64 * 64 * 3
    assert isinstance(found.counts["images"], int) and np.isfinite(found.counts["images"])


def test_a_wrong_table_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    table = tmp_path / "train.csv"
    table.write_text("imagename,target\nISIC_1,0\n")
    settings = SimpleNamespace(table=(table,), store=SimpleNamespace(stored_px=64))
    with pytest.raises(InputError, match="without its columns image_name"):
        images_extent(settings)
    header = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,target"
    table.write_text(f"{header}\nISIC_1,IP_1,male,50,torso,0\nISIC_2,IP_2,male,55,torso,1\nISIC_3,IP_2,,,,0\n")
    assert images_extent(settings).counts == {"images": 3}


@pytest.mark.parametrize("recipe", ["similarity", "weighting"])
def test_tables_of_another_set_are_refused_before_anything_is_measured(recipe: str, tmp_path: Path) -> None:
    header = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,target"
    table = tmp_path / "other.csv"
    table.write_text(f"{header}\nISIC_1,IP_1,male,50,torso,0\n")
    found = importlib.import_module(f"melano_tf.papers.{recipe}.settings").RECIPE
    settings = dataclasses.replace(found.preset("paper"), table=(table,), images=(tmp_path,))
    with pytest.raises(InputError, match=r"other\.csv: a table of isic2020; this paper is about ISIC 20"):
        extent_of(found, settings)


def test_less_than_an_hour_is_told_in_minutes() -> None:
    assert [told(hours) for hours in (1234.56, 1.0, 0.999, 0.02)] == ["1,234.6 h", "1.0 h", "59.9 min", "1.2 min"]
