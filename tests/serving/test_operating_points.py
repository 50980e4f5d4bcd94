"""Operating points: what `predict --favour` makes of a model's probabilities."""

from typing import Any

import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.evaluation.calibration import Calibration
from melano_tf.models.tta_and_prior_shift import prior_factors, shifted
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.operating_points import favour_factors, favoured

COUNTS = np.array([70, 20, 10])


def card(**run: Any) -> Sidecar:
    return Sidecar("weighting", ("A", "B", "C"), 40, {"store": {}}, 0.0, "none", run)


EVEN = {"factors": [1.0, 2.0, 1.0]}


def fitted(outputs: int) -> dict[str, Any]:
    return Calibration(1.7, outputs, "a hold-out", 40, 12, 0.7, 0.6, 0.2, 0.1, 15, False).to_json()


def test_an_operating_point_with_its_calibration_is_taken() -> None:
    run = {"factors": [1.0, 1.0, 1.0], "operating_points": {"accuracy": {**EVEN, "calibration": fitted(3)}}}
    assert favour_factors(card(**run), "accuracy", "any.keras").tolist() == EVEN["factors"]


def points(**powers: float) -> dict[str, Any]:
    return {name: {"power": power, "factors": prior_factors(COUNTS, power).tolist()} for name, power in powers.items()}


def test_an_operating_point_is_a_shift_of_what_the_network_said() -> None:
    """The model answers with its own shift, which is taken back: by hand, from the network's probabilities."""
    said = np.array([0.70, 0.17, 0.13])
    own = prior_factors(COUNTS, 0.4)
    sidecar = card(factors=own.tolist(), operating_points=points(both=0.4, accuracy=0.0, balanced=1.0))
    answered = shifted(said[None], own)[0]
    np.testing.assert_allclose(favoured(answered, favour_factors(sidecar, "accuracy", "m")), said, atol=1e-12)
    balanced = said / COUNTS
    found = favoured(answered, favour_factors(sidecar, "balanced", "m"))
    np.testing.assert_allclose(found, balanced / balanced.sum(), atol=1e-12)
    assert said.argmax() == 0 and found.argmax() == 2


@pytest.mark.parametrize(
    "run",
    [
        {},
        {"factors": [1.0, 1.0, 1.0]},
        {"factors": [1.0, 1.0], "operating_points": points(accuracy=0.0)},
        {"factors": [1.0, 0.0, 1.0], "operating_points": points(accuracy=0.0)},
        {"factors": [1.0, 1.0, 1.0], "operating_points": points(balanced=0.0)},
        {"factors": [1.0, 1.0, 1.0], "operating_points": {"accuracy": {"factors": "much"}}},
        {
            "factors": [1.0, 1.0, 1.0],
            "operating_points": {"accuracy": {"factors": [1.0, 2.0, 1.0], "calibration": "none"}},
        },
        {
            "factors": [1.0, 1.0, 1.0],
            "operating_points": {"accuracy": {"factors": [1.0, 2.0, 1.0], "calibration": {"temperature": 2.0}}},
        },
        {"factors": [1.0, 1.0, 1.0], "operating_points": {"accuracy": {**EVEN, "calibration": fitted(2)}}},
    ],
)
def test_a_model_without_one_is_refused(run: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"--favour accuracy: any\.keras has no such operating point"):
        favour_factors(card(**run), "accuracy", "any.keras")
