"""What a storm says of steps that were done twice."""

from experiments.storms import counted


def test_a_finished_step_that_is_begun_again_counts_also_where_it_does_not_end():
    known, twice = counted({}, {"train/a": "10:00", "train/b": "10:01"})
    assert twice == []
    known, twice = counted(known, {"train/b": "10:01", "train/c": "10:02"})  # a was begun again, and killed
    assert twice == ["train/a"]
    known, twice = counted(known, {"train/a": "10:04", "train/b": "10:01", "train/c": "10:03"})
    assert twice == ["train/c"] and set(known) == {"train/a", "train/b", "train/c"}
