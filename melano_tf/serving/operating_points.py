"""A decision among several classes in favour of accuracy or of balanced accuracy: a model's operating points."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from melano_tf.errors import InputError
from melano_tf.evaluation.calibration import Calibration
from melano_tf.models.tta_and_prior_shift import shifted
from melano_tf.runs.sidecar import Sidecar

Favour = Literal["accuracy", "balanced"]


def favour_factors(sidecar: Sidecar, favour: Favour, where: Path | str) -> np.ndarray:
    """By what the model's probabilities are multiplied, float64 (C,): beside the shift that stands in the model itself.

    The operating points of a model's sidecar were chosen on lesions that trained nothing: `run.operating_points` holds
    each one's factors, `run.factors` those that the model has.

    Args:
        sidecar: of the model.
        favour: which figure of merit.
        where: the model, for messages.

    Raises:
        InputError: the sidecar holds no such operating point.
    """
    points, own = sidecar.run.get("operating_points"), sidecar.run.get("factors")
    try:
        chosen = np.asarray(points[favour]["factors"], np.float64)  # type: ignore[index]
        with np.errstate(divide="ignore", invalid="ignore"):  # a factor of nought is refused below
            relative = np.asarray(chosen / np.asarray(own, np.float64))
        calibration = favour_calibration(sidecar, favour)
        if calibration is not None and Calibration.from_json(calibration).outputs != len(sidecar.classes):
            raise ValueError("a calibration of another number of classes")
    except (InputError, TypeError, KeyError, ValueError, AttributeError, OverflowError):
        relative = np.zeros(0)
    if relative.shape != (len(sidecar.classes),) or not (np.isfinite(relative) & (relative > 0)).all():
        raise InputError(
            f"--favour {favour}: {where} has no such operating point; a best cell or ham10000.keras of a run of "
            "weighting --preset ham10000 has"
        )
    return relative


def favour_calibration(sidecar: Sidecar, favour: Favour) -> Mapping[str, Any] | None:
    """The calibration of that operating point's probabilities, as a sidecar holds one; None where none was fitted."""
    found: Mapping[str, Any] | None = sidecar.run["operating_points"][favour].get("calibration")
    return found


def favoured(probabilities: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Probabilities (C,) of one case as that operating point has them, summing to one."""
    return np.asarray(shifted(probabilities[None], factors)[0])
