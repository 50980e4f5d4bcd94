"""Training, validation and test part: whole patients, every class in each, the same draw for the same seed."""

import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.splits.training_validation_test import split_parts

LABELS = ("MM", "IN", "CN", "JN")


def cohort(patients: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """One to three slides a patient, some patients with two diagnoses."""
    rng = np.random.default_rng(seed)
    names, labels = [], []
    for patient in range(patients):
        for slide in range(rng.integers(1, 4)):
            names.append(f"p{patient:03d}")
            labels.append(LABELS[(patient + (slide == 2)) % 4])
    return names, labels


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("patients", [16, 40, 200])
def test_every_class_in_every_part_and_the_shares_kept(patients: int, seed: int) -> None:
    names, labels = cohort(patients, seed)
    split = split_parts(names, labels, seed=seed)
    parts = (*split.folds, split.test)
    assert sum(map(len, parts)) == len(set().union(*parts)) == patients
    for members in parts:
        assert {own for name, own in zip(names, labels, strict=True) if name in members} == set(LABELS)
    if seed == 0:
        assert split == split_parts(names, labels) == split_parts(names, labels, 0.15, 0.15, 0)
    if patients == 200:
        assert [len(part) for part in parts] == pytest.approx([140, 30, 30], abs=3)
    order = np.random.default_rng(1).permutation(len(names))
    assert split_parts([names[i] for i in order], [labels[i] for i in order], seed=seed) == split


def test_too_few_patients_of_a_class_are_named() -> None:
    for labels, said in (
        (["MM", "MM", "MM", "IN", "IN", "CN", "MM", "MM"], ["class 'CN': 1 patient", "class 'IN': 2 patients"]),
        (["MM"] * 8, ["1 class: 2 at least are needed"]),
    ):
        with pytest.raises(InputError) as caught:
            split_parts(list("abcdefgh"), labels)
        headline = (
            "too few patients for a training, a validation, a test part that each hold every class (3 patients a "
            "class); add patients, or leave the class out:"
        )
        assert str(caught.value) == "\n  - ".join([headline, *said])
    for shares in ((0.5, 0.5), (0.0, 0.2), (0.2, 0.0), (-0.1, 0.2)):
        with pytest.raises(InputError) as caught:
            split_parts(list("abcdef"), ["MM", "IN"] * 3, *shares)
        said = f"test share {shares[0]} and validation share {shares[1]}"
        assert str(caught.value) == f"{said} must be above 0, their sum below 1"
