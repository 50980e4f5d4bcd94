"""What is said of an answer, whatever it is of."""

from collections.abc import Callable, Mapping
from typing import Any

from melano_tf.serving.answer_record import familiar_words
from melano_tf.serving.measured_metrics import measured_words
from melano_tf.serving.model_interface import Card
from melano_tf.training.familiarity import distance_words


def say_distance(record: Mapping[str, Any], card: Card, say: Callable[[str], None]) -> None:
    """How far one case is from the training, whether a decision was withheld for that, and what the distance is of."""
    if far := distance_words(record["distance"]):
        say(f"  {far}")
    if record["withheld"]:
        say("  the decision is withheld; --answer-anyway decides all the same")
    say(f"  {familiar_words(card)}")


def threshold_words(card: Card) -> str:
    """The threshold with what was measured of it, in one line."""
    sidecar = card.sidecar
    if len(sidecar.classes) != 2:
        return "the most probable class is called; there is no threshold"
    threshold = f"threshold {sidecar.threshold:.3g}"
    if card.measured is None and "sensitivity" in sidecar.threshold_from:  # models of older runs
        return f"{threshold}: {sidecar.threshold_from}"
    return f"{threshold}: {measured_words(None if card.measured is None else dict(card.measured))}"
