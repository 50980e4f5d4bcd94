"""A trained classifier as it answers: any picture brought to the training's pixels, mirrored views, shifted classes."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from melano_tf.errors import InputError

SMALLEST = 1e-7  # of a probability, before its logarithm


@keras.saving.register_keras_serializable("melano_tf")
class ToSide(keras.layers.Layer):
    """Pictures brought to side x side pixels: by area where an axis shrinks, bilinearly where it grows.

    Input (B, H, W, C) float, H and W may be unknown until it runs; output (B, side, side, C). A network trained on
    pictures of one sharpness is then shown pictures of no other, whatever size they come in.

    Args:
        side: of the output in pixels, at least 1.
    """

    def __init__(self, side: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if side < 1:
            raise ValueError(f"side {side}: expected at least 1")
        self.side = side

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        x = ops.cast(inputs, self.compute_dtype)
        height, width = ops.shape(x)[1], ops.shape(x)[2]
        if tuple(x.shape[1:3]) == (self.side, self.side):  # known, and nothing to do
            return x
        rows, columns = (ops.cast(self._shares(length), x.dtype) for length in (height, width))
        return ops.einsum("ph,bhwc,qw->bpqc", rows, x, columns)

    def _shares(self, length: Any) -> Any:
        """What each of `length` pixels gives to each of `side`, float32 (side, length); rows sum to one."""
        count = ops.cast(length, "float32")
        scale = count / self.side
        out = ops.arange(self.side, dtype="float32")[:, None]
        place = ops.arange(length, dtype="float32")[None, :]
        covered = ops.minimum(place + 1.0, (out + 1.0) * scale) - ops.maximum(place, out * scale)
        centre = ops.clip((out + 0.5) * scale - 0.5, 0.0, count - 1.0)
        near = 1.0 - ops.abs(place - centre)
        shares = ops.relu(ops.where(scale >= 1.0, covered, near))
        return shares / ops.sum(shares, axis=1, keepdims=True)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.side, self.side, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "side": self.side}


@keras.saving.register_keras_serializable("melano_tf")
class Mirrored(keras.layers.Layer):
    """Pictures (B, H, W, C) -> (views B, H, W, C): as they are, left for right, upside down, and both.

    Args:
        views: 1 (as they are), 2 (and left for right) or 4.
    """

    def __init__(self, views: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if views not in (1, 2, 4):
            raise ValueError(f"views {views}: expected 1, 2 or 4")
        self.views = views

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        x = inputs
        for axis in (2, 1)[: {1: 0, 2: 1, 4: 2}[self.views]]:
            x = ops.concatenate([x, ops.flip(x, axis=axis)], axis=0)
        return x

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch = input_shape[0]
        return (None if batch is None else batch * self.views, *input_shape[1:])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "views": self.views}


@keras.saving.register_keras_serializable("melano_tf")
class MeanOfViews(keras.layers.Layer):
    """Probabilities (views B, C) of `Mirrored` pictures -> their mean (B, C)."""

    def __init__(self, views: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.views = views

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        return ops.mean(ops.reshape(inputs, (self.views, -1, inputs.shape[-1])), axis=0)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch = input_shape[0]
        return (None if batch is None else batch // self.views, *input_shape[1:])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "views": self.views}


@keras.saving.register_keras_serializable("melano_tf")
class Shifted(keras.layers.Layer):
    """Probabilities (B, C) times one factor a class, and made to sum to one again: the shift of `shifted`.

    Args:
        factors: positive, one a class.
    """

    def __init__(self, factors: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not all(factor > 0 for factor in factors):
            raise ValueError(f"factors {list(factors)}: expected positive numbers")
        self.factors = [float(factor) for factor in factors]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if input_shape[-1] != len(self.factors):
            raise ValueError(f"{len(self.factors)} factors for {input_shape[-1]} classes")
        self.built = True

    def call(self, inputs: Any) -> Any:
        values = ops.maximum(inputs, SMALLEST) * ops.convert_to_tensor(self.factors, dtype=inputs.dtype)
        return values / ops.sum(values, axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factors": self.factors}


def prior_factors(counts: Any, strength: float) -> np.ndarray:
    """(N_c / N)^-strength, the largest one 1, float64 (C,): takes the training set's imbalance out of a decision.

    0 leaves probabilities as they are; 1 divides by the prior, which suits a judge of mean recall (Menon et al., Long-
    tail learning via logit adjustment, ICLR 2021).

    Raises:
        InputError: a class without a training image.
    """
    counts = np.asarray(counts, np.float64)
    if (counts <= 0).any():
        raise InputError(
            f"classes {np.flatnonzero(counts <= 0).tolist()} have no training image: no prior to divide by"
        )
    factors = (counts / counts.sum()) ** -strength
    return np.asarray(factors / factors.max())


def shifted(probabilities: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """What `Shifted` gives, in numpy, float64 (n, C)."""
    values = np.maximum(np.asarray(probabilities, np.float64), SMALLEST) * factors
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def answering(
    network: keras.Model, stored_px: int, views: int = 4, factors: Sequence[float] | None = None
) -> keras.Model:
    """The model to be saved: "image" (B, H, W, 3) in 0..255, and "metadata" (B, M) where the network takes it ->
    probabilities (B, C), for pictures of any size.

    A picture is brought to the `stored_px` pixels that the training had, then to the network's own side; the
    probabilities of its mirrored views are averaged, and shifted by class, all in float32.

    Args:
        network: (B, px, px, 3), and perhaps metadata behind it, -> (B, C) probabilities; its layers are used, not
            copied.
        stored_px: side of the training's pictures.
        views: see `Mirrored`.
        factors: see `Shifted`; None: no shift.
    """
    image = keras.Input((None, None, 3), name="image")
    x = ToSide(stored_px, dtype="float32", name="training_pixels")(image)
    if network.inputs[0].shape[1] != stored_px:
        x = ToSide(int(network.inputs[0].shape[1]), dtype="float32", name="network_pixels")(x)
    if views > 1:
        x = Mirrored(views, dtype="float32", name="mirrored")(x)
    told = [keras.Input(each.shape[1:], name="metadata") for each in network.inputs[1:]]
    seen = [keras.layers.Concatenate(axis=0, name="told_views")([each] * views) if views > 1 else each for each in told]
    # A model of the same layers that takes tensors, whatever the network's own inputs are called.
    x = keras.Model(list(network.inputs), network.outputs[0], name=network.name)([x, *seen])
    if views > 1:
        x = MeanOfViews(views, dtype="float32", name="mean_of_views")(x)
    if factors is not None:
        x = Shifted(factors, dtype="float32", name="shifted")(x)
    return keras.Model([image, *told] if told else {"image": image}, x, name="answering")
