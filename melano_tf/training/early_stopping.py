"""Early stopping on a validation loss, with the best weights kept: a state that survives a kill."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import keras
import numpy as np


class EarlyStopping:
    """Ends a training once the validation loss has not improved for some epochs; give it as `epoch_end` of `train`.

    Its variables (a copy of the best weights, the losses) belong to the training's state: pass `variables` as
    `extra_variables`, so that a resumed training ends as one that was never killed.

    Args:
        model: the model in training.
        validate: gives the validation loss of the model as it is.
        epochs: of the longest training.
        patience: epochs without improvement after which the training ends; 0: it never does, but the best weights are
            kept all the same.
    """

    def __init__(self, model: keras.Model, validate: Callable[[], float], epochs: int, patience: int) -> None:
        self.model, self.validate, self.patience = model, validate, patience
        self.best = [
            keras.Variable(weight, trainable=False, dtype=weight.dtype, name=f"best_{place}")
            for place, weight in enumerate(model.weights)
        ]
        start = np.full(epochs, np.inf, np.float32)
        self.losses = keras.Variable(start, trainable=False, dtype="float32", name="validation_losses")

    @property
    def variables(self) -> list[Any]:
        """What `train` saves along."""
        return [*self.best, self.losses]

    def __call__(self, epoch: int, logs: Mapping[str, float]) -> bool:
        """Judge the epoch; whether the training ends here.

        Raises:
            ValueError: the validation loss is not finite.
        """
        loss = float(self.validate())
        if not np.isfinite(loss):
            raise ValueError(f"the validation loss of epoch {epoch + 1} is {loss}")
        losses = np.array(keras.ops.convert_to_numpy(self.losses))
        better = loss < losses.min()
        losses[epoch] = loss
        self.losses.assign(losses)
        if better:
            for kept, weight in zip(self.best, self.model.weights, strict=True):
                kept.assign(weight)
        return self.patience > 0 and epoch - int(losses.argmin()) >= self.patience

    def finish(self, history: Sequence[MutableMapping[str, float]]) -> None:
        """Give the model its best weights back, and add to each epoch's record what was measured after it.

        Args:
            history: one record an epoch done, as `train` returns them; gets "validation_loss", and "kept": 1 for the
                epoch whose weights the model has now (of equal losses the first), 0 for the others.
        """
        for kept, weight in zip(self.best, self.model.weights, strict=True):
            weight.assign(kept)
        losses = np.asarray(keras.ops.convert_to_numpy(self.losses))
        best = int(losses.argmin())
        for epoch, (record, loss) in enumerate(zip(history, losses[np.isfinite(losses)].tolist(), strict=True)):
            record["validation_loss"] = loss
            record["kept"] = float(epoch == best)
