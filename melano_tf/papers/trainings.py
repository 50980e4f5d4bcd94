"""One training of a recipe, with the traced network of the last one where they are alike."""

from pathlib import Path

from melano_tf.papers.shell import Work
from melano_tf.training.fit import Training, fit, prepare


def train(work: Work, training: Training) -> list[Path]:
    """Do a training, judge its model and save both (`training.fit.fit`); returns the files.

    Raises:
        LeakError: as `fit`.
    """
    if training.alike is None:
        return fit(work.run, training, work.scratch)
    shared = work.alone(*training.alike, lambda: prepare(work.run, training))
    return fit(work.run, training, work.scratch, shared)
