"""How long a training's step takes and what memory it wants: three steps of the true network on made-up pictures."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.training.fit import Network
from melano_tf.training.steps import GradientStep, Progress, Step

STEPS = 3
FEW = 4  # pictures of a step that is measured first
PATIENCE_S = 6.0  # for three steps of a whole batch; where they would take longer, those of a few pictures count


@dataclass(frozen=True)
class Pace:
    """What was measured of one network.

    Attributes:
        seconds: a picture, forwards and backwards; the median of three steps.
        pictures: of the steps that were measured, or bags of features.
        state: bytes of weights, gradients and the optimiser's variables.
        activations: bytes that one sample's step keeps for its way back: all layers' outputs.
        saved: bytes of the weights.
        fits: whether there was memory for all pictures of a step; if not, `seconds` is of a few.
    """

    seconds: float
    pictures: int
    state: int
    activations: int
    saved: int
    fits: bool = True


def measure(
    build: Callable[[], Network],
    pictures: int,
    step: Callable[[Network], Step] | None = None,
    bag: bool = False,
    instances: tuple[int, int] = (1, 1),
    parts: int = 0,
    few: int = FEW,
) -> Pace:
    """Three steps, after one that traces them: of the whole batch, or, where that would take long or does not fit into
    the device's memory, of a few pictures.

    Args:
        build: the network with its optimiser.
        pictures: in a step on one device.
        step: (network) -> what is done with a batch; None: a gradient step.
        bag: the pictures of a batch are one sample's.
        instances: of a network of bags of features: in those that are made up, and in the largest that there is.
        parts: a gradient step does a batch in parts of so many pictures, one after the other; 0: at once.
        few: pictures of the steps that are measured first.

    Raises:
        InputError: not even a few pictures fit.
    """
    network, (usual, most), count = build(), instances, min(few, pictures)
    does = step(network) if step is not None else GradientStep(network.trained, network.optimizer, any_loss)
    if parts and isinstance(does, GradientStep):
        does.in_parts(parts)

    def paced(samples: int) -> float:
        batch = made_up(network.trained, samples, bag, usual)
        timed(does, batch)
        return float(np.median([timed(does, batch) for _ in range(STEPS)]))

    try:
        seconds, fits = paced(count), True
    except tf.errors.ResourceExhaustedError:
        raise InputError(
            f"{network.trained.name}: there is no memory on this device for a step of {count} pictures; see that "
            "nothing else is at work there, or do fewer at a time (--micro-batch, of spitzoid's bags --target.chunk)"
        ) from None
    if count < pictures and STEPS * seconds / count * pictures <= PATIENCE_S:
        try:
            seconds, count = paced(pictures), pictures
        except tf.errors.ResourceExhaustedError:
            fits = False
    weights, trained = (
        sum(map(_bytes, each)) for each in (network.trained.variables, network.trained.trainable_variables)
    )
    kept = sum(_bytes(each, most) for each in outputs_of(network.trained))
    state = weights + trained + sum(map(_bytes, network.optimizer.variables))
    return Pace(seconds / count, count, state, kept, weights, fits)


def timed(step: Step, batch: Mapping[str, Any]) -> float:
    """Seconds of one step, to its end."""
    now = Progress(*(tf.constant(number, tf.int64) for number in (0, 0, 4, 1)))
    began = time.perf_counter()
    float(step(batch, now)["loss"])
    return time.perf_counter() - began


def any_loss(batch: Mapping[str, Any], outputs: Any) -> Any:
    """A loss for the clock: the mean square of all that a network gives, (B,)."""
    parts = [
        tf.reduce_mean(tf.reshape(each, [tf.shape(each)[0], -1]) ** 2, axis=1) for each in tf.nest.flatten(outputs)
    ]
    return tf.add_n(parts)


def made_up(model: keras.Model, samples: int, bag: bool, instances: int = 1) -> dict[str, Any]:
    """A batch of random pictures, grey levels 0 to 255, or of bags of so many instances without padding, in the form
    that a model takes them."""
    rng = np.random.default_rng(0)

    def filled(tensor: Any) -> Any:
        shape = (samples, *(size or instances for size in tensor.shape[1:]))
        if tf.as_dtype(tensor.dtype).is_bool:
            return tf.ones(shape, tf.bool)
        return tf.cast(rng.uniform(0, 255, shape), tensor.dtype)

    given = model.input
    x = {each.name: filled(each) for each in given} if isinstance(given, list) else tf.nest.map_structure(filled, given)
    rows = 1 if bag else samples
    return {"x": x, "y": tf.zeros([rows], tf.int32), "id": tf.constant([str(row) for row in range(rows)])}


def outputs_of(model: keras.Model) -> list[Any]:
    """What each layer of a functional model gives, those of the models in it among them."""
    found: list[Any] = []
    for node in [node for nodes in model._nodes_by_depth.values() for node in nodes]:
        inner = getattr(node.operation, "_functional", node.operation)  # a Sequential has its graph there
        if hasattr(inner, "_nodes_by_depth"):
            given = {id(each) for each in inner.inputs}  # counted where it comes from
            found += [each for each in outputs_of(inner) if id(each) not in given]
        else:
            found += [each for each in node.output_tensors if hasattr(each, "dtype")]
    return found


def _bytes(each: Any, instances: int = 1) -> int:
    """Of a variable, or of one sample's share of a tensor, with so many instances."""
    sizes = [size or (instances if axis else 1) for axis, size in enumerate(each.shape)]
    return int(np.prod(sizes, dtype=np.int64)) * tf.as_dtype(each.dtype).size
