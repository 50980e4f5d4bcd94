"""The schema that every model kind's predictions follow (JSON)."""

from pathlib import Path
from typing import Any

from melano_tf.runs.sidecar import Sidecar

SCHEMA = "melano_tf prediction 1"


def blank_record(source: Path, model: Path, sidecar: Sidecar) -> dict[str, Any]:
    """What stands in every answer, with nothing answered yet: probabilities and decision are None.

    Args:
        source: the image or slide.
        model: the model's file, exported folder, or name on a server.
        sidecar: its sidecar.
    """
    return {
        "schema": SCHEMA,
        "input": str(source),
        "model": {"file": str(model), "kind": sidecar.kind, **sidecar.run},
        "probabilities": None,
        "calibrated_probabilities": None,
        "threshold": sidecar.threshold,
        "threshold_from": sidecar.threshold_from,
        "decision": None,
        "remark": "",
        "evidence": {},
        "caveat": caveat(sidecar),
    }


def caveat(sidecar: Sidecar) -> str:
    """What an answer must not be taken for."""
    own = sidecar.run.get("slides") or sidecar.run.get("table")
    trained_on = "one cohort" if own else "phantoms drawn by a program: it knows nothing of real skin"
    return f"Research only; not a medical device. Trained on {trained_on}."
