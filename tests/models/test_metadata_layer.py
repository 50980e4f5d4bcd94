"""The code of metadata against a hand-written one, and words that it does not know."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.metadata_fields import AGE, SEX, SITE
from melano_tf.models.metadata_layer import MetadataCode


def code(*sites: str) -> MetadataCode:
    return MetadataCode((AGE, SEX, replace(SITE, words=sites)))


def told(ages: list[float], sexes: list[str], sites: list[str]) -> dict[str, list[Any]]:
    return {"age": ages, "sex": sexes, "site": sites}


CODE = code("head/neck", "torso", "unknown")


def test_hand_written() -> None:
    assert CODE.names == (
        *("age", "age unknown"),
        *("sex female", "sex male", "sex unknown"),
        *("site head/neck", "site torso", "site unknown"),
    )
    result = CODE.encode(told([45, np.nan, 0], ["male", "female", "unknown"], ["torso", "unknown", "head/neck"]))
    assert result.dtype == np.float32
    expected = [
        [0.5, 0, 0, 1, 0, 0, 1, 0],
        [0.0, 1, 1, 0, 0, 0, 0, 1],
        [0.0, 0, 0, 0, 1, 1, 0, 0],
    ]
    np.testing.assert_array_equal(result, np.asarray(expected, "float32"))


def test_six_sites_are_twelve_numbers() -> None:
    assert code(*"abcdef").width == 12


def test_blank_is_all_unknown() -> None:
    np.testing.assert_array_equal(CODE.blank(2), [[0, 1, 0, 0, 1, 0, 0, 1]] * 2)
    assert CODE.encode(told([], [], [])).shape == (0, 8)


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
        CODE.encode(told(ages, sexes, sites))


def test_a_sidecar_keeps_the_code() -> None:
    written = {"age_scale": 90.0, "sexes": ["female", "male", "unknown"], "sites": ["head/neck", "torso", "unknown"]}
    assert CODE.to_json() == written and MetadataCode.from_json(written) == CODE
    # A model that was trained before a field was added is told what it was told then.
    assert MetadataCode.from_json({"age_scale": 45, "sexes": ["male"]}).names == (
        *("age", "age unknown"),
        *("sex male", "sex unknown"),
    )
    for damaged, words in (
        ({"sites": []}, "is missing"),
        ({"age_scale": 0}, "age_scale 0"),
        ({"heights": [1]}, "'heights' is of another program"),
    ):
        with pytest.raises(ValueError, match=words):
            MetadataCode.from_json(damaged)
