"""The schema that every model kind's predictions follow (JSON)."""

from pathlib import Path
from typing import Any

import numpy as np

from melano_tf.evaluation.calibration import Calibration
from melano_tf.evaluation.multiclass_metrics import UNDECIDED, decide
from melano_tf.evaluation.thresholds import Decision
from melano_tf.models.taxonomy import Taxonomy
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.model_interface import Answer, Card
from melano_tf.serving.model_kinds import ANSWERING
from melano_tf.training.familiarity import UNLIKE, UNTOLD, is_unlike

SCHEMA = "melano_tf prediction 1"


def answer_record(answer: Answer, card: Card, anyway: bool = False) -> dict[str, Any]:
    """What a model said of a case: probabilities and decision are None where it cannot be judged.

    The decision alone is None, and `withheld` says why, where the case is unlike all that the model was trained on.

    Args:
        answer, card: what was said, and by whom.
        anyway: decide all the same.
    """
    record = _judged_record(answer, card)
    if answer.probabilities is None or not is_unlike(answer.distance):
        return record
    return record | (
        {"remark": _joined(record["remark"], UNLIKE)} if anyway else {"decision": None, "withheld": UNLIKE}
    )


def familiar_words(card: Card) -> str:
    """What the distances are of, in one line; or that there are none."""
    known = card.familiar
    if known is None:
        return UNTOLD
    return (
        f"distance: from {known['described']:,} training examples; 1 is what 99 % of {known['measured']:,} "
        f"{known['from']} stay below"
    )


def _joined(first: str, second: str) -> str:
    return f"{first}; {second}" if first else second


def _judged_record(answer: Answer, card: Card) -> dict[str, Any]:
    """What a model said, however far the case is from its training."""
    sidecar, kind = card.sidecar, ANSWERING[card.sidecar.kind]
    by_threshold = kind.called_by == "threshold" and (len(sidecar.classes) == 2 or kind.judges != "features")
    evidence = dict(answer.evidence)
    record = {**_blank_record(answer.case.path, card), "evidence": evidence}
    # Only a threshold has a sensitivity and a specificity.
    measured = {"measured": card.measured} if by_threshold else {}
    if not by_threshold:
        record |= {"threshold": None, "threshold_from": "the most probable class is called"}
    if answer.probabilities is None:
        return {**record, "unreadable": answer.reason, **measured}
    record |= {"remark": answer.remark, "distance": answer.distance}
    record["probabilities"] = _named(answer.probabilities, sidecar)
    if not by_threshold:
        if sidecar.calibration is not None:
            fitted = Calibration.from_json(sidecar.calibration)
            record["calibrated_probabilities"] = _named(fitted.apply(answer.probabilities), sidecar)
        record["decision"] = _most_probable(answer.probabilities, sidecar)
        if answer.untold is not None:
            evidence["probabilities_without_metadata"] = _named(answer.untold, sidecar)
    elif len(sidecar.classes) == 2:
        decision = Decision.from_sidecar(sidecar.cut, sidecar.threshold_from, sidecar.calibration)
        p = float(answer.probabilities[1])
        if decision.calibration is not None:
            calibrated = float(decision.probability(p))
            record["calibrated_probabilities"] = _named(np.array([1.0 - calibrated, calibrated]), sidecar)
        record["decision"] = sidecar.classes[int(bool(decision.apply(p)))]
        if answer.untold is not None:
            evidence["probability_without_metadata"] = float(decision.probability(float(answer.untold[1])))
    else:
        record["decision"] = _most_probable(answer.probabilities, sidecar)
    if sidecar.taxonomy is not None:
        path = Taxonomy.from_mapping(sidecar.taxonomy, sidecar.classes).greedy_of(answer.probabilities[None])
        evidence["by_greedy_path"] = sidecar.classes[int(path[0])]
    return {**record, **measured}


def _most_probable(probabilities: np.ndarray, sidecar: Sidecar) -> str:
    """The class that is called of several, or that two of them are equally probable."""
    called = int(decide(probabilities[None])[0])
    return "undecided" if called == UNDECIDED else sidecar.classes[called]


def _named(probabilities: np.ndarray, sidecar: Sidecar) -> dict[str, float]:
    return dict(zip(sidecar.classes, map(float, probabilities), strict=True))


def _blank_record(source: Path, card: Card) -> dict[str, Any]:
    """What stands in every answer, with nothing answered yet."""
    sidecar = card.sidecar
    return {
        "schema": SCHEMA,
        "input": str(source),
        "model": {"file": str(card.model), "kind": sidecar.kind, **sidecar.run},
        "probabilities": None,
        "calibrated_probabilities": None,
        "threshold": sidecar.threshold,
        "threshold_from": sidecar.threshold_from,
        "decision": None,
        "distance": None,
        "withheld": "",
        "remark": "",
        "evidence": {},
        "caveat": caveat(sidecar),
    }


def caveat(sidecar: Sidecar) -> str:
    """What an answer must not be taken for."""
    own = sidecar.run.get("slides") or sidecar.run.get("table")
    trained_on = "one cohort" if own else "phantoms drawn by a program: it knows nothing of real skin"
    return f"Research only; not a medical device. Trained on {trained_on}."
