"""What a training was really fed: from inside its batches, through kills, and refused where it must not be."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from melano_tf.errors import InputError
from melano_tf.runs.run_folder import Run
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.splits.leaks import LeakError
from melano_tf.training.fed_cases import Fed, check_chain, ids_of, record_choice
from melano_tf.training.fit import Training, optimise
from melano_tf.training.loop import History
from tests.training.test_prepared import broken, build, described
from tests.training.toy import STEPS, ToyBatches, everyone

NAMES = ["a", "b", "c", "d"]


class Named:
    """Two batches an epoch: (a, b), (c)."""

    steps_per_epoch = 2

    def __init__(self) -> None:
        self.asked: list[int] = []

    def from_step(self, step: int) -> Any:
        self.asked.append(step)
        while True:
            yield {"id": np.array(["a", "b"] if step % 2 == 0 else ["c"], object)}
            step += 1


@pytest.fixture
def run(tmp_path: Path):
    with Run(tmp_path / "run", "toy", {"preset": "demo"}, 1, print) as run:
        yield run


def sides(trains: list[str], **more: Any) -> Sides:
    return Sides({name: name for name in NAMES}, trains, **more)


def choice(stem: str, asked: list[str], **more: Any) -> Fed:
    """A choice, after these cases were asked in one batch."""
    made = Fed(stem, sides([], **more), None)
    list(made.chose([{"id": np.array(asked, object)}]))
    return made


def test_the_record_holds_exactly_whom_the_batches_held(run: Run, tmp_path: Path) -> None:
    seen: set[str] = set()

    class Watched(ToyBatches):
        def from_step(self, step: int) -> Any:
            for batch in super().from_step(step):
                seen.update(ids_of(batch))
                yield batch

    whole = everyone(3)
    judged = [f"s{3 * STEPS - 1}-{index}" for index in range(4)]  # of the third epoch, which is not trained
    sides = Sides(whole.groups, [name for name in whole.trains if name not in judged], judged=judged)
    training = dataclasses.replace(described("toy", batches=Watched()), sides=sides)
    optimise(run, training, tmp_path / "work")
    record = pd.read_parquet(run.folder / "audit" / "toy.parquet")
    assert set(record["id"][record["role"] == "fed"]) == seen and len(seen) == 2 * (4 * 6 + 4)
    assert set(record["id"][record["role"] == "judged"]) == set(judged)


def test_who_has_no_part_in_a_training_is_refused_before_a_step_is_done(run: Run, tmp_path: Path) -> None:
    whole, steps = everyone(2), []
    training = dataclasses.replace(
        described("toy", around=lambda step, network: lambda *given: steps.append(1) or step(*given)),
        sides=dataclasses.replace(whole, trains=[name for name in whole.trains if name != "s1-2"]),
    )
    with pytest.raises(LeakError, match="toy: s1-2 was fed to the training"):
        optimise(run, training, tmp_path / "work")
    assert len(steps) == 1  # that of the batch before it
    assert not (run.folder / "audit" / "toy.parquet").exists()


def test_a_killed_training_leaves_the_record_of_one_that_was_not(run: Run, tmp_path: Path) -> None:
    optimise(run, described("whole"), tmp_path / "whole")
    with pytest.raises(Exception, match="in the middle"):
        optimise(run, described("torn", around=broken), tmp_path / "torn")
    log = tmp_path / "torn" / "fed.jsonl"
    with log.open("ab") as file:
        file.write(b'["fed", 4, ["s4')  # the line that the kill tore
    optimise(run, described("torn"), tmp_path / "torn")
    whole, torn = ((run.folder / "audit" / f"{name}.parquet").read_bytes() for name in ("whole", "torn"))
    assert whole == torn


def test_of_steps_that_the_log_lost_the_batches_are_read_again(tmp_path: Path) -> None:
    batches, first = Named(), Fed("toy", sides(["a", "b", "c"]), tmp_path)
    given = first.batches(batches).from_step(0)
    next(given), next(given)
    (tmp_path / "fed.jsonl").write_text('["fed", 0, ["a", "b"]]\n', encoding="utf-8")
    again = Fed("toy", sides(["a", "b", "c"]), tmp_path)
    next(again.batches(batches).from_step(4))
    assert batches.asked == [0, 1, 4] and set(again.ids["fed"]) == {"a", "b", "c"}
    assert set(Fed("toy", sides([]), tmp_path).ids["fed"]) == {"a", "b", "c"}  # and are in the log now
    Fed("toy", sides(["a", "b", "c"]), tmp_path).batches(batches).catch_up(5)
    assert batches.asked == [0, 1, 4], "of none that the log holds, whoever was new in it or not"


def test_what_is_read_again_ends_where_the_training_stands(tmp_path: Path) -> None:
    fed = Fed("toy", sides(["a", "b"]), tmp_path)  # who would come next has no part
    fed.batches(Named()).catch_up(1)
    assert set(fed.ids["fed"]) == {"a", "b"} and fed.steps == 1

    class Ended(Named):
        def from_step(self, step: int) -> Any:
            return iter(())

    with pytest.raises(InputError, match="no batch of step 1"):
        fed.batches(Ended()).catch_up(2)


def test_a_log_is_believed_up_to_a_torn_line_or_a_gap_and_goes_on_whole(tmp_path: Path) -> None:
    log = tmp_path / "fed.jsonl"
    first = '["fed", 0, ["a", "b"]]\n'
    for rest in ('["fed", 2, []]\n["fed", 3, []]\n', '["fed", 1, ["c', "[1, 2]\n", '["lost", 1, []]\n'):
        log.write_text(first + rest, encoding="utf-8")
        fed = Fed("toy", sides(["a", "b", "c"]), tmp_path)
        assert fed.steps == 1, rest
        fed.batches(Named()).catch_up(3)
        again = Fed("toy", sides(["a", "b", "c"]), tmp_path)
        assert again.steps == 3 and set(again.ids["fed"]) == {"a", "b", "c"}, rest


def test_who_chooses_is_held_out(tmp_path: Path) -> None:
    fed = Fed("toy", sides(["a"], held_out=["b"], judged=["c"]), tmp_path)
    assert [batch["x"] for batch in fed.chose([{"id": ["b"], "x": 7}])] == [7]
    for case in ("a", "c"):
        with pytest.raises(LeakError, match=f"toy: {case} chose for"):
            list(fed.chose([{"id": ["b", case]}]))
    assert [batch["x"] for batch in fed.also([{"id": ["a"], "x": 8}])] == [8]
    assert {role: list(ids) for role, ids in fed.ids.items()} == {"fed": ["a"], "chose": ["b"]}
    with pytest.raises(LeakError, match="toy: b was fed to"):
        list(fed.also([{"id": ["b"]}]))


def test_what_a_training_stands_on_has_not_seen_who_is_judged(run: Run) -> None:
    for name, trains, after in (("first", ["a", "b"], {}), ("second", ["c"], {"first": ""})):
        fed = Fed(name, sides(trains, after=after), None)
        fed.note("fed", trains)
        fed.write(run)
    check_chain(run, "third", sides(["c"], judged=["d"], after={"second": ""}))
    with pytest.raises(LeakError, match="second, which this stands on, has seen"):
        check_chain(run, "third", sides(["c"], judged=["b"], after={"second": ""}))
    check_chain(run, "third", sides(["c"], judged=["b"], after={"second": "the paper does"}))
    with pytest.raises(LeakError, match=r"no record of what it was fed"):
        check_chain(run, "third", sides(["c"], after={"gone": ""}))
    Fed("excused", sides(["c"], after={"first": "the paper does"}), None).write(run)
    check_chain(run, "third", sides(["c"], judged=["b"], after={"excused": ""}))
    with pytest.raises(LeakError, match="first, which this stands on, has seen"):
        record_choice(run, choice("threshold", ["a"], held_out=["a"], after={"first": ""}))
    record_choice(run, choice("threshold", ["d"], held_out=["d"], judged=["c"], after={"first": ""}))
    record = pd.read_parquet(run.folder / "audit" / "threshold.parquet")
    assert record[["role", "id"]].to_numpy().tolist() == [["chose", "d"], ["judged", "c"], ["after", "first"]]


@pytest.mark.parametrize("order", [1, -1])
def test_one_excuse_excuses_no_other_and_what_two_trainings_share_is_looked_at_for_both(run: Run, order: int) -> None:
    """In whatever order they are named: "base" saw b, and both others stand on it."""
    for name, trains, after in (
        ("base", ["b"], {}),
        ("left", ["a"], {"base": ""}),
        ("right", ["c"], {"base": "the paper does"}),
    ):
        fed = Fed(name, sides(trains, after=after), None)
        fed.note("fed", trains)
        fed.write(run)

    def after(*names: tuple[str, str]) -> dict[str, str]:
        return dict(names[::order])

    for those in (
        after(("left", ""), ("base", "the paper does")),
        after(("left", ""), ("right", "")),
        after(("left", "the paper does"), ("base", "")),
    ):
        with pytest.raises(LeakError, match="which this stands on, has seen"):
            check_chain(run, "last", sides(["d"], judged=["b"], after=those))
    check_chain(run, "last", sides(["d"], judged=["b"], after=after(("left", "the paper does"), ("right", ""))))


def test_a_hold_out_that_set_a_limit_chooses_the_threshold_too_and_is_judged_by_neither(run: Run) -> None:
    fed = Fed("net", sides(["a"], held_out=["b"], judged=["c"]), None)
    fed.note("fed", ["a"])
    fed.note("chose", ["b"])
    fed.write(run)
    record_choice(run, choice("net-decision", ["b"], held_out=["b"], judged=["c"], after={"net": ""}))
    with pytest.raises(LeakError, match="net, which this stands on, has seen"):
        record_choice(run, choice("late", ["d"], held_out=["d"], judged=["b"], after={"net": ""}))
    with pytest.raises(LeakError, match="net, which this stands on, has seen"):
        record_choice(run, choice("early", ["a"], held_out=["a"], judged=["c"], after={"net": ""}))


def test_a_choice_is_recorded_of_whom_its_batches_held_and_refused_where_none_was_noted(run: Run) -> None:
    """Who was meant to choose (b and d) says nothing: b alone was asked."""
    record_choice(run, choice("some", ["b"], held_out=["b", "d"], judged=["c"]))
    record = pd.read_parquet(run.folder / "audit" / "some.parquet")
    assert record["id"][record["role"] == "chose"].tolist() == ["b"]
    with pytest.raises(LeakError, match="none: was chosen, and on whom is not known"):
        record_choice(run, Fed("none", sides([], held_out=["b"]), None))
    assert not (run.folder / "audit" / "none.parquet").exists()


def test_a_loop_of_its_own_that_takes_other_batches_is_refused(run: Run, tmp_path: Path) -> None:
    training = Training("own", 1, 1, build, ToyBatches(), everyone(1), loop=lambda network, context: History())
    with pytest.raises(ValueError, match="who was fed is not known"):
        optimise(run, training, tmp_path / "own")
