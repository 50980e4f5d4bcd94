"""A training that stands still and knows less than a constant answer does is said aloud."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

STILL = 1e-4  # of an epoch's loss: what changes less from one epoch to the next has not moved


@dataclass(frozen=True)
class Watch:
    """What the loop compares a training's loss with, epoch by epoch.

    Attributes:
        name: of the training, for the line that is said.
        prior_loss: the loss of the best constant answer (`melano_tf.training.losses.prior_loss`).
        say: shows a line to the person at the terminal.
    """

    name: str
    prior_loss: float
    say: Callable[[str], None]

    def look(self, losses: Sequence[float]) -> None:
        """Say it, where the last of these epochs is the first that stands still; once in a training."""
        if losses and stuck_at(losses, self.prior_loss) == len(losses) - 1:
            self.say(
                f"{self.name}: the loss of epoch {len(losses)} is {losses[-1]:.4g} and has not moved since the epoch "
                f"before, and a constant answer alone would cost {self.prior_loss:.4g}: this training learns nothing; "
                "look at the learning rate and at what its inputs are"
            )


def stuck_at(losses: Sequence[float], prior_loss: float) -> int | None:
    """The first epoch (from 0) whose loss is above a constant answer's and within `STILL` of the one before, or None.

    Args:
        losses: mean loss of each epoch, with the sample weights of the training. A curriculum that leaves samples out
            lowers it, so that less is said.
        prior_loss: of the best constant answer, with the same weights.
    """
    for epoch, (before, now) in enumerate(itertools.pairwise(losses), start=1):
        if now > prior_loss and abs(now - before) <= STILL * abs(before):
            return epoch
    return None
