"""Colour constancy as a layer, for networks that take the camera's pixels; of the same result as `dermoscopy`'s."""

import math
from typing import Any, Literal, get_args

import keras
from keras import ops

Method = Literal["shades_of_gray", "grey_world", "max_rgb"]
Precision = Literal["float32", "float64"]


@keras.saving.register_keras_serializable("melano_tf")
class ColourNormalisation(keras.layers.Layer):
    """Images under neutral light: (B, H, W, 3) in 0..255, any number dtype -> the same shape, whole numbers 0..255.

    The arguments are the fields of `dermoscopy.colour_constancy.ColourConstancy`. On whole numbers in 0..255 the
    result is that of its `normalise`: exactly in float64, within one grey level in float32 (sums round).

    Args:
        method, p, mask_saturated, saturated: how the light is estimated.
        precision: of the arithmetic, whatever the layer's policy; the output has the policy's compute dtype.

    Raises:
        ValueError: a value outside its range.
    """

    def __init__(
        self,
        method: Method = "shades_of_gray",
        p: float = 6.0,
        mask_saturated: bool = False,
        saturated: int = 255,
        precision: Precision = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Inputs must come as they are: cast to float16 by the policy, powers of them would not.
        self.autocast = False
        if method not in get_args(Method) or precision not in get_args(Precision):
            raise ValueError(f"method {method!r}, precision {precision!r}: see ColourNormalisation")
        if p < 1 or not 1 <= saturated <= 255:
            raise ValueError(f"p {p}, saturated {saturated}: expected p of at least 1, saturated in 1..255")
        self.method, self.p, self.mask_saturated, self.saturated = method, float(p), mask_saturated, saturated
        self.precision = precision

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        images = ops.cast(inputs, self.precision)
        counted = images / 255.0
        share: Any = 1.0
        if self.mask_saturated:
            highest = ops.max(images, axis=-1, keepdims=True)
            kept = ops.cast(highest < self.saturated, self.precision)
            counted = counted * kept
            share = ops.mean(kept, axis=(1, 2))
            share = ops.where(share > 0, share, ops.ones_like(share))
        if self.method == "max_rgb":
            light = ops.max(counted, axis=(1, 2))
        else:
            p = self.p if self.method == "shades_of_gray" else 1.0
            light = ops.power(ops.mean(ops.power(counted, p), axis=(1, 2)) / share, 1.0 / p)
        length = ops.sqrt(ops.sum(light * light, axis=-1, keepdims=True))
        lit = light > 0
        gains = length / (math.sqrt(3.0) * ops.where(lit, light, ops.ones_like(light)))
        gains = ops.where(lit, gains, ops.ones_like(gains))
        images = ops.clip(ops.round(images * gains[:, None, None, :]), 0.0, 255.0)
        return ops.cast(images, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("method", "p", "mask_saturated", "saturated", "precision")}
        return {**super().get_config(), **own}
