"""Training, validation and test part by patient, every class in each of them."""

from collections.abc import Sequence

from melano_tf.errors import InputError
from melano_tf.splits.inner_holdout import inner_holdout
from melano_tf.splits.stratification import short_classes
from melano_tf.splits.validation_cohorts import Split

PARTS = ("training", "validation", "test")


def split_parts(
    patients: Sequence[str],
    labels: Sequence[str],
    test_share: float = 0.15,
    validation_share: float = 0.15,
    seed: int = 0,
) -> Split:
    """Draw a test and a validation part of the patients, stratified by each patient's set of classes.

    The order of the rows does not matter. Each draw is one of `inner_holdout`: strata keep their share as nearly as
    whole patients allow, and every class stands on both sides. Both have the same seed, so that the two draws are
    correlated; no patient stands in two parts for that.

    Args:
        patients: patient of each slide, (n,).
        labels: diagnosis of each slide, (n,); a patient may have several.
        test_share: share of all patients in the test part.
        validation_share: share of all patients in the validation part.
        seed: of the draws.

    Returns:
        A split whose two folds are (training, validation).

    Raises:
        InputError: shares that leave no training part, or too few patients of a class; all such classes are named.
    """
    if not (test_share > 0 and validation_share > 0 and test_share + validation_share < 1):
        raise InputError(
            f"test share {test_share} and validation share {validation_share} must be above 0, their sum below 1"
        )
    faults = [
        f"class {label!r}: {count} patient{'s' * (count != 1)}"
        for label, count in short_classes(patients, labels, len(PARTS)).items()
    ]
    if faults or len(set(labels)) < 2:
        faults = faults or [f"{len(set(labels))} class: 2 at least are needed"]
        raise InputError.of(
            f"too few patients for a {', a '.join(PARTS)} part that each hold every class (3 patients a class); "
            "add patients, or leave the class out:",
            faults,
        )
    test = inner_holdout(patients, labels, test_share, seed)
    rest = [(p, own) for p, own in zip(patients, labels, strict=True) if p in set(test.training)]
    validation = inner_holdout(
        [p for p, _ in rest], [own for _, own in rest], validation_share / (1 - test_share), seed
    )
    return Split(test=test.held_out, folds=(validation.training, validation.held_out))
