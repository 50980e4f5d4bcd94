import csv
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from melano_tf.errors import InputError
from melano_tf.training.checkpoint import training_variables
from melano_tf.training.loop import GradientStep, LoopSettings, train
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.sample_weights import (
    STRATEGY,
    Strategy,
    StrategyBatches,
    WeightLog,
    class_balanced,
    curriculum,
    effective_number,
    focal_loss,
    mean_one,
    ohem,
    ohem_per_class,
    pace,
    spl,
    sum_to_classes,
    taking_part,
)
from melano_tf.training.steps import Progress

ISIC_2018 = [6741, 1119, 116, 331, 1101, 517, 143]  # Table 1, as printed: 10,068 of 10,015
FLOATS = ("float16", "bfloat16", "float32", "float64")


def naive_count(size: int, epoch: int, epochs: int, full_from: float = 0.5, of: int | None = None) -> int:
    """round(of x share), halves up, the share being that of a batch of `size`."""
    full = full_from * epochs
    if epoch >= full:
        return size if of is None else of
    alpha = math.log(2 * size - 1) / full
    share = math.exp(alpha * epoch) / (1 + math.exp(alpha * epoch))
    return math.floor((size if of is None else of) * share + 0.5)


def naive_weights(
    kind: str, losses: list[float], classes: list[int], epoch: int, epochs: int, full_from: float = 0.5
) -> list[float]:
    weights = [1.0 if kind == "none" else 0.0] * len(losses)
    groups = sorted(set(classes)) if kind == "ohem_per_class" else [None]
    for group in groups if kind != "none" else []:
        members = [i for i in range(len(losses)) if group is None or classes[i] == group]
        order = sorted(members, key=lambda i: (losses[i] if kind == "spl" else -losses[i], i))
        for i in order[: naive_count(len(losses), epoch, epochs, full_from, len(members))]:
            weights[i] = 1.0
    return weights


# === Class weights ===


def test_class_balanced() -> None:
    found = ops.convert_to_numpy(class_balanced(np.array(ISIC_2018)))
    np.testing.assert_allclose(found, [10068 / count for count in ISIC_2018], rtol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(class_balanced([6, 3, 1])), [10 / 6, 10 / 3, 10], rtol=1e-6)


def test_effective_number() -> None:
    beta = 10067 / 10068
    naive = [(1 - beta) / (1 - beta**count) for count in ISIC_2018]
    np.testing.assert_allclose(ops.convert_to_numpy(effective_number(np.array(ISIC_2018))), naive, rtol=1e-5)
    # By hand: N = 4, beta = 3/4: 1 image (1/4)/(1/4) = 1, 3 images (1/4)/(1 - 27/64) = 16/37.
    np.testing.assert_allclose(ops.convert_to_numpy(effective_number([1, 3])), [1, 16 / 37], rtol=1e-6)
    assert float(effective_number([1])[0]) == 1


@pytest.mark.parametrize("dtype", ["int32", "int64", *FLOATS])
def test_counts_of_every_dtype(dtype: str) -> None:
    counts = ops.convert_to_tensor([64, 16, 4], dtype)
    np.testing.assert_allclose(class_balanced(counts), [84 / 64, 84 / 16, 21], rtol=1e-6)
    naive = [(1 / 84) / (1 - (83 / 84) ** count) for count in (64, 16, 4)]
    np.testing.assert_allclose(effective_number(counts), naive, rtol=1e-5)


def test_mean_one() -> None:
    weights = ops.convert_to_numpy(mean_one(class_balanced([6, 3, 1]), [6, 3, 1]))
    np.testing.assert_allclose(weights, [10 / 18, 10 / 9, 10 / 3], rtol=1e-6)
    np.testing.assert_allclose(np.dot(weights, [6, 3, 1]) / 10, 1, rtol=1e-6)


def test_sum_to_classes() -> None:
    # By hand: as printed 1 and 16/37, together 53/37, brought to 2.
    np.testing.assert_allclose(sum_to_classes(effective_number([1, 3])), [74 / 53, 32 / 53], rtol=1e-6)
    np.testing.assert_allclose(np.sum(sum_to_classes(effective_number(np.array(ISIC_2018)))), 7, rtol=1e-5)


@pytest.mark.parametrize(
    ("scale", "cb", "es"),
    [("cui", [4, 4 / 3], [74 / 53, 32 / 53]), ("as_printed", [4, 4 / 3], [1, 16 / 37]), ("mean_one", None, None)],
)
def test_the_scale_of_class_weights(scale: Any, cb: list[float] | None, es: list[float] | None) -> None:
    """As printed ES hardly counts a sample; Cui et al. rescale it, and CB stays what equation 7 says."""
    counts = np.array([1, 3])
    for name, expected in (("cb", cb), ("es", es)):
        strategy = Strategy(name, scale=scale)  # type: ignore[arg-type]
        found = strategy.weights_of_classes(counts)
        if expected is None:
            np.testing.assert_allclose(found @ counts / 4, 1, rtol=1e-6)
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        np.testing.assert_allclose(strategy.mean_weight(counts, 10, 5), found @ counts / 4, rtol=1e-6)
    np.testing.assert_array_equal(Strategy(scale=scale).weights_of_classes(counts), [1, 1])


def test_mean_weights_of_the_papers_rows() -> None:
    """On 80 % of ISIC 2018 an ES sample counts 9.4e-4 as printed, 7,400 times less than a CB sample."""
    counts = np.array(ISIC_2018) * 0.8
    assert Strategy("cb").mean_weight(counts, 150, 20) == pytest.approx(7.0, rel=1e-5)
    assert Strategy("es", scale="as_printed").mean_weight(counts, 150, 20) == pytest.approx(9.4e-4, rel=0.01)
    assert Strategy("es").mean_weight(counts, 150, 20) == pytest.approx(0.229, abs=0.001)
    share = np.mean(ops.convert_to_numpy(pace(np.arange(150), 150, 20)))
    assert Strategy(curriculum="ohem").mean_weight(counts, 150, 20) == pytest.approx(share, rel=1e-6)
    assert Strategy("cb", "spl").mean_weight(counts, 150, 20) == pytest.approx(7 * share, rel=1e-5)


# === Pace and curricula ===


@pytest.mark.parametrize(("epochs", "size"), [(150, 20), (250, 20), (10, 7), (8, 64), (3, 20), (1, 5), (5, 1)])
@pytest.mark.parametrize("full_from", [0.5, 0.25, 1.0])
def test_pace_is_the_naive_one(epochs: int, size: int, full_from: float) -> None:
    found = ops.convert_to_numpy(taking_part(size, pace(np.arange(epochs), epochs, size, full_from)))
    expected = [naive_count(size, epoch, epochs, full_from) for epoch in range(epochs)]
    np.testing.assert_array_equal(found, expected)


def test_pace_of_the_paper() -> None:
    shares = ops.convert_to_numpy(pace(np.arange(150), 150, 20))
    assert shares[0] == 0.5 and shares[74] < 1 and (shares[75:] == 1).all()
    counts = ops.convert_to_numpy(taking_part(20, shares))
    assert counts[0] == 10, "half of the batch"
    assert (np.diff(counts) >= 0).all()
    assert counts[74] == 19 and (counts[75:] == 20).all(), "all of it from half of the training on, and not before"


def test_curricula_by_hand() -> None:
    losses = np.array([3.0, 1.0, 2.0, 5.0, 4.0, 0.0], np.float32)
    np.testing.assert_array_equal(spl(losses, 0, 10), [0, 1, 1, 0, 0, 1])
    np.testing.assert_array_equal(ohem(losses, 0, 10), [1, 0, 0, 1, 1, 0])
    # Class 0 has five samples: 2.5, rounded to 3, take part; class 1 has one, which always does.
    np.testing.assert_array_equal(ohem_per_class(losses, np.array([0, 0, 0, 0, 0, 1]), 0, 10), [1, 0, 0, 1, 1, 1])
    for weights in (spl(losses, 5, 10), ohem(losses, 5, 10), ohem_per_class(losses, np.zeros(6), 9, 10)):
        np.testing.assert_array_equal(weights, np.ones(6))


def test_ties_go_by_index() -> None:
    losses = np.array([1.0, 1.0, 1.0, 1.0], np.float32)
    np.testing.assert_array_equal(spl(losses, 0, 10), [1, 1, 0, 0])
    np.testing.assert_array_equal(ohem(losses, 0, 10), [1, 1, 0, 0])
    np.testing.assert_array_equal(ohem_per_class(losses, np.array([1, 0, 0, 1]), 0, 10), [1, 1, 0, 0])


@pytest.mark.parametrize("dtype", FLOATS)
def test_curricula_are_the_naive_loops(dtype: str) -> None:
    draw = np.random.default_rng(4)
    for size in (1, 2, 7, 20):
        for epoch in (0, 1, 3, 4, 5, 9):
            losses = ops.convert_to_tensor(draw.integers(0, 12, size) / 4, dtype)  # many ties
            classes = draw.integers(0, 3, size)
            plain, labels = np.asarray(ops.cast(losses, "float64")).tolist(), classes.tolist()
            for kind, found in {
                "spl": spl(losses, epoch, 10),
                "ohem": ohem(losses, epoch, 10),
                "ohem_per_class": ohem_per_class(losses, classes, epoch, 10),
            }.items():
                assert ops.shape(found) == (size,) and found.dtype == "float32"
                np.testing.assert_array_equal(found, naive_weights(kind, plain, labels, epoch, 10), err_msg=kind)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_reaches_the_loop(bad: float) -> None:
    losses = np.array([1.0, bad, 2.0, 3.0], np.float32)
    for weights in (spl(losses, 0, 10), ohem(losses, 0, 10)):
        total = float(ops.sum(weights * losses))
        assert not math.isfinite(total)


# === Strategies ===


def test_a_strategy_is_checked_all_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Strategy(class_weights="sb", curriculum="hard", gamma=-1.0, full_from=0.0)  # type: ignore[arg-type]
    assert str(caught.value).splitlines() == [
        "weighting strategy:",
        "  - class_weights is 'sb'; known: none, cb, es",
        "  - curriculum is 'hard'; known: none, spl, ohem, ohem_per_class",
        "  - gamma is -1.0, and must be 0 (cross-entropy) or more",
        "  - full_from is 0.0, and must lie above 0 and at most at 1",
    ]
    with pytest.raises(InputError, match="scale is 'none'; known: cui, as_printed, mean_one"):
        Strategy(scale="none")  # type: ignore[arg-type]
    for gamma in (math.nan, math.inf):
        with pytest.raises(InputError, match=f"gamma is {gamma}"):
            Strategy(gamma=gamma)
    with pytest.raises(InputError, match=r"full_from is 1\.1"):
        Strategy(full_from=1.1)
    assert Strategy(full_from=1.0).name == "cel-from1"


def test_a_class_without_an_image_is_named() -> None:
    with pytest.raises(InputError, match="'cb': no training image of class DF, VASC"):
        Strategy("cb").weights_of_classes([5, 0, 3, 0], ["NV", "DF", "MEL", "VASC"])
    with pytest.raises(InputError, match="class 1;"):
        Strategy("es").weights_of_classes([5, 0])
    np.testing.assert_array_equal(Strategy(curriculum="spl").weights_of_classes([5, 0]), [1, 1])


def test_names_differ() -> None:
    assert Strategy().name == "cel"
    named = Strategy("cb", "ohem_per_class", 1.0, 0.25, "mean_one")
    assert named.name == "fl1-cb-ohem_per_class-mean_one-from0.25"
    every = [Strategy(c, k, g) for c in ("none", "cb", "es") for k in ("none", "spl", "ohem") for g in (0.0, 0.5)]
    assert len({strategy.name for strategy in every}) == len(every)


def test_batches_carry_the_strategy(toy: ModuleType) -> None:
    plain = toy.ToyBatches()
    batches = StrategyBatches(plain, Strategy("cb", "ohem", 2.0), [30, 10])
    assert batches.steps_per_epoch == plain.steps_per_epoch
    batch, original = next(iter(batches.from_step(3))), plain.batch(3)
    classes = original["y"].numpy()
    np.testing.assert_allclose(
        batch["weight"], original["weight"].numpy() * np.where(classes == 0, 40 / 30, 40 / 10), rtol=1e-6
    )
    np.testing.assert_array_equal(batch[STRATEGY]["class"], classes)
    np.testing.assert_array_equal(batch[STRATEGY]["gamma"], np.full(len(classes), 2))
    np.testing.assert_array_equal(batch["x"], original["x"])
    with pytest.raises(InputError, match=r"classes 0 to 0"):
        next(iter(StrategyBatches(plain, Strategy(), [40]).from_step(3)))
    unknown = StrategyBatches(plain, Strategy("cb"), [30, 10], classes=lambda batch: batch["y"] - 1)
    with pytest.raises(InputError, match=r"class is -1"):  # which would count from the end
        next(iter(unknown.from_step(3)))


def test_batches_take_one_hot_and_other_classes(toy: ModuleType) -> None:
    class OneHot(toy.ToyBatches):  # type: ignore[name-defined]
        def batch(self, step: int) -> dict[str, Any]:
            batch = super().batch(step)
            return {"x": batch["x"], "y": tf.one_hot(batch["y"], 2), "id": batch["id"], "leaf": 1 - batch["y"]}

    plain = toy.ToyBatches().batch(0)["y"].numpy()
    batch = next(iter(StrategyBatches(OneHot(), Strategy("es"), [3, 1]).from_step(0)))
    np.testing.assert_array_equal(batch[STRATEGY]["class"], plain)
    np.testing.assert_allclose(batch["weight"], np.where(plain == 0, 32 / 53, 74 / 53), rtol=1e-6)
    leaves = StrategyBatches(OneHot(), Strategy(), [3, 1], classes=lambda batch: batch["leaf"])
    np.testing.assert_array_equal(next(iter(leaves.from_step(0)))[STRATEGY]["class"], 1 - plain)


@pytest.mark.parametrize("kind", ["none", "spl", "ohem", "ohem_per_class"])
def test_the_compiled_curriculum_is_the_naive_loop(kind: Any) -> None:
    draw = np.random.default_rng(8)
    function = tf.function(curriculum, reduce_retracing=True)
    for epoch in (0, 2, 3, 6):
        losses, classes = draw.normal(size=9).astype(np.float32), draw.integers(0, 3, 9)
        batch = {STRATEGY: Strategy(curriculum=kind, full_from=0.6).tensors(classes)}
        now = Progress(*(tf.constant(number, tf.int64) for number in (0, epoch, 100, 10)))
        found = function(tf.constant(losses), batch, now)
        expected = naive_weights(kind, losses.tolist(), classes.tolist(), epoch, 10, 0.6)
        np.testing.assert_array_equal(found, expected)
    assert function.experimental_get_tracing_count() == 1


# === In a real training ===

COUNTS = [22, 6]
GRID = [
    Strategy(),
    Strategy("cb"),
    Strategy("es"),
    Strategy(curriculum="spl"),
    Strategy(curriculum="ohem"),
    Strategy(curriculum="ohem_per_class"),
    Strategy(gamma=1.0),
    Strategy("cb", "ohem", 2.0),
]


def make(toy: ModuleType) -> tuple[keras.Model, Any, GradientStep]:
    keras.utils.set_random_seed(11)
    model, optimizer = toy.toy_model(), toy.toy_optimizer()
    return model, optimizer, GradientStep(model, optimizer, focal_loss, weights_fn=curriculum)


@pytest.fixture(scope="module")
def shared(toy: ModuleType) -> tuple[keras.Model, Any, GradientStep, list[np.ndarray]]:
    """One network that is traced once, and what its variables are at first."""
    model, optimizer, step = make(toy)
    return model, optimizer, step, [np.array(variable) for variable in training_variables(model, optimizer)]


def test_es_learns_under_sgd_unless_it_is_as_printed(toy: ModuleType, tmp_path: Path) -> None:
    """With the counts of ISIC 2018's largest and smallest class, from one start, on the same batches."""
    fell = {}
    for strategy in (Strategy("cb"), Strategy("es"), Strategy("es", scale="as_printed")):
        keras.utils.set_random_seed(11)
        model = toy.toy_model(dropout=0.0, batch_norm=False)
        optimizer = make_optimizer("sgd", 3e-3, momentum=0.9, nesterov=True)
        batches = StrategyBatches(toy.ToyBatches(), strategy, [6741, 116])
        step = GradientStep(model, optimizer, focal_loss, weights_fn=curriculum)
        history = train(step, batches, LoopSettings(60), tmp_path / strategy.name, model, optimizer)
        first, last = (np.mean([record["loss"] for record in part]) for part in (history[:5], history[-5:]))
        fell[strategy.name] = 1 - last / first
    assert fell["cel-cb"] > 0.3 and fell["cel-es"] > 0.3, fell
    assert abs(fell["cel-es-as_printed"]) < 0.15, fell


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_grid_of_strategies_traces_the_network_once(toy: ModuleType, tmp_path: Path) -> None:
    model, optimizer, step = make(toy)
    variables = training_variables(model, optimizer)
    start = [np.asarray(variable) for variable in variables]
    ends = {}
    for strategy in GRID:
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        batches = StrategyBatches(toy.ToyBatches(), strategy, COUNTS)
        train(step, batches, LoopSettings(toy.EPOCHS), tmp_path / strategy.name, model, optimizer)
        ends[strategy.name] = toy.digest(model, optimizer)
    compiled: Any = step._function
    assert compiled.experimental_get_tracing_count() == 1
    assert len(set(ends.values())) == len(GRID), "every strategy ends in other weights"
    # A cell of the grid is what a training of its own would be.
    model, optimizer, step = make(toy)
    train(
        step,
        StrategyBatches(toy.ToyBatches(), GRID[-1], COUNTS),
        LoopSettings(toy.EPOCHS),
        tmp_path / "own",
        model,
        optimizer,
    )
    assert toy.digest(model, optimizer) == ends[GRID[-1].name]


@pytest.mark.parametrize("strategy", GRID, ids=lambda strategy: strategy.name)
def test_the_weights_of_a_real_run(shared: Any, toy: ModuleType, tmp_path: Path, strategy: Strategy) -> None:
    model, optimizer, step, start = shared
    for variable, value in zip(training_variables(model, optimizer), start, strict=True):
        variable.assign(value)
    updates: list[tuple[float, np.ndarray]] = []

    def spying(batch: Any, progress: Progress) -> Any:
        result = step(batch, progress)
        updates.append((float(result["loss"]), np.asarray(result["loss_per_sample"])))
        return result

    logged = WeightLog(spying, tmp_path / "weights")
    plain = toy.ToyBatches()
    train(
        logged,
        StrategyBatches(plain, strategy, COUNTS),
        LoopSettings(toy.EPOCHS),
        tmp_path / "run",
        model,
        optimizer,
    )
    files = sorted((tmp_path / "weights").iterdir())
    assert len(files) == toy.EPOCHS * toy.STEPS == len(updates)
    left_out = 0
    for at, (path, (loss, losses)) in enumerate(zip(files, updates, strict=True)):
        rows, batch = rows_of(path), plain.batch(at)
        classes, given = batch["y"].numpy().tolist(), batch["weight"].numpy()
        assert [row["id"] for row in rows] == [name.decode() for name in batch["id"].numpy()]
        assert [int(row["class"]) for row in rows] == classes
        total, beta = sum(COUNTS), (sum(COUNTS) - 1) / sum(COUNTS)
        printed = [(1 - beta) / (1 - beta**count) for count in COUNTS]
        of_class = {
            "none": [1.0, 1.0],
            "cb": [total / count for count in COUNTS],
            "es": [2 * one / sum(printed) for one in printed],
        }[strategy.class_weights]
        weights = [of_class[c] * w for c, w in zip(classes, given, strict=True)]
        np.testing.assert_allclose([float(row["weight"]) for row in rows], weights, rtol=1e-5)
        kept = naive_weights(strategy.curriculum, losses.tolist(), classes, at // toy.STEPS, toy.EPOCHS)
        assert [float(row["curriculum"]) for row in rows] == kept
        left_out += kept.count(0.0)
        # The step used these weights: its loss is their sum with the losses, over the number of samples.
        expected = sum(w * k * one for w, k, one in zip(weights, kept, losses, strict=True)) / len(rows)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert (left_out > 0) == (strategy.curriculum != "none")


def test_the_log_keeps_every_nth_step(toy: ModuleType, tmp_path: Path) -> None:
    model, optimizer, step = make(toy)
    batches = StrategyBatches(toy.ToyBatches(), Strategy(), COUNTS)
    train(WeightLog(step, tmp_path / "w", every=8), batches, LoopSettings(4), tmp_path / "run", model, optimizer)
    assert [path.stem for path in sorted((tmp_path / "w").iterdir())] == [f"step_{at:08d}" for at in (0, 8, 16)]
    with pytest.raises(InputError, match="every: 0"):
        WeightLog(step, tmp_path, every=0)
