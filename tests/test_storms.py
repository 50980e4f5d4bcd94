"""What a storm says of steps that were done twice."""

from experiments.storms import Steps, counted


def at(**moments: str) -> Steps:
    """Steps that were finished under the key k."""
    return {name: {"k": moment} for name, moment in moments.items()}


def test_a_finished_step_that_is_begun_again_counts_also_where_it_does_not_end():
    known, twice = counted({}, at(a="10:00", b="10:01"))
    assert twice == []
    known, twice = counted(known, at(b="10:01", c="10:02"))  # a was begun again, and killed
    assert twice == ["a"]
    known, twice = counted(known, at(a="10:04", b="10:01", c="10:03"))
    assert twice == ["c"] and set(known) == {"a", "b", "c"}


def test_under_another_key_a_step_is_rightly_done_again_and_under_a_former_one_not():
    known, twice = counted({}, {"a": {"without P03": "10:00"}, "b": {"all": "10:01"}}, keys_change=True)
    known, twice = counted(known, {"b": {"all": "10:01"}}, keys_change=True)  # a was begun again, with all slides
    assert twice == []
    known, twice = counted(known, {"a": {"all": "10:05"}, "b": {"all": "10:01"}}, keys_change=True)
    assert twice == []
    known, twice = counted(known, {"a": {"without P03": "10:09"}, "b": {"all": "10:08"}}, keys_change=True)
    assert twice == ["a", "b"]
