"""What is said of an answer, whatever it is of."""

from melano_tf.serving.measured_metrics import measured_words
from melano_tf.serving.model_interface import Card


def threshold_words(card: Card) -> str:
    """The threshold with what was measured of it, in one line."""
    sidecar = card.sidecar
    if len(sidecar.classes) != 2:
        return "the most probable class is called; there is no threshold"
    threshold = f"threshold {sidecar.threshold:.3g}"
    if card.measured is None and "sensitivity" in sidecar.threshold_from:  # models of older runs
        return f"{threshold}: {sidecar.threshold_from}"
    return f"{threshold}: {measured_words(None if card.measured is None else dict(card.measured))}"
