"""The code of metadata against a hand-written one, and words that it does not know."""

import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.models.metadata import MetadataCode

CODE = MetadataCode(sites=("head/neck", "torso", "unknown"))


def test_hand_written() -> None:
    assert CODE.names == (
        *("age", "age unknown"),
        *("sex female", "sex male", "sex unknown"),
        *("site head/neck", "site torso", "site unknown"),
    )
    result = CODE.encode([45, np.nan, 0], ["male", "female", "unknown"], ["torso", "unknown", "head/neck"])
    assert result.dtype == np.float32
    expected = [
        [0.5, 0, 0, 1, 0, 0, 1, 0],
        [0.0, 1, 1, 0, 0, 0, 0, 1],
        [0.0, 0, 0, 0, 1, 1, 0, 0],
    ]
    np.testing.assert_array_equal(result, np.asarray(expected, "float32"))


def test_six_sites_are_twelve_numbers() -> None:
    assert MetadataCode(sites=tuple("abcdef")).width == 12


def test_blank_is_all_unknown() -> None:
    np.testing.assert_array_equal(CODE.blank(2), [[0, 1, 0, 0, 1, 0, 0, 1]] * 2)
    assert CODE.encode([], [], []).shape == (0, 8)


@pytest.mark.parametrize(
    ("ages", "sexes", "sites", "match"),
    [
        ([-1], ["male"], ["torso"], "age of -1"),
        ([np.inf], ["male"], ["torso"], "age of inf"),
        ([50], ["Male"], ["torso"], "sex 'Male'.*female, male, unknown"),
        ([50], ["male"], ["elbow"], "site 'elbow'.*head/neck, torso, unknown"),
        ([50, 51], ["male"], ["torso"], "do not match"),
        ([50], ["male"], ["torso", "torso"], "do not match"),
    ],
)
def test_refused(ages: list[float], sexes: list[str], sites: list[str], match: str) -> None:
    with pytest.raises(InputError, match=match):
        CODE.encode(ages, sexes, sites)
