"""Training and predicting on bags of tiles, exactly, in memory that does not grow with the bag.

The gradient of a bag's loss L with respect to the embedder's weights is a sum over chunks of tiles,

    dL/dw = sum_k (dh_k/dw)^T (dL/dh_k),

h_k being the embeddings of chunk k. So: embed the bag in chunks without a tape; take the gradient of the bag's loss
with respect to all embeddings (and the aggregator's weights); then run each chunk again, under a tape, against its part
of that gradient. Only one chunk's activations are alive at a time. Both runs draw the same random numbers: dropout's
seed generators are set back in between.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.training.optimizers import loss_scale
from melano_tf.training.steps import Batch, LossFn, Progress, TrainingError, applied, batch_signature, float32, traced


class BagStep:
    """One update on one bag: a step for `melano_tf.training.loop.train`.

    batch: "x" (N, h, w, 3) tiles, uint8 or float (or a dict of tensors (N, …)); "y" (1,), "id" (1,), and "weight" (1,)
    where wanted. A bag of at most `chunk` tiles is done in one piece, without the second run.

    Args:
        embedder: Keras model, tiles (n, h, w, 3) -> (n, C) embeddings. A tile's embedding must not depend on the other
            tiles of its chunk: BatchNorm has to run in inference mode (checked at the first step).
        aggregator: Keras model, embeddings (1, N, C) -> outputs of the bag, for example
            {"probability": (1, 1), "attention": (1, N)}.
        optimizer: a Keras optimizer; built here on both parts' trainable variables if it is not yet.
        loss_fn: (batch without "x", outputs) -> (1,) loss.
        chunk: tiles embedded at a time; bounds the memory.

    Raises:
        InputError: nothing is trainable, the chunk is not positive, layers add losses of their own, or the model lies
            on several replicas: one bag's chunks are not spread over devices; make this model outside the strategy.
    """

    def __init__(self, embedder: Any, aggregator: Any, optimizer: Any, loss_fn: LossFn, chunk: int = 16) -> None:
        self.embedder, self.aggregator = embedder, aggregator
        self.optimizer, self.loss_fn, self.chunk = optimizer, loss_fn, chunk
        self._embedder_part = list(embedder.trainable_variables)
        self._aggregator_part = list(aggregator.trainable_variables)
        both = [*self._embedder_part, *self._aggregator_part]
        self._trainable = list({id(variable): variable for variable in both}.values())
        self._check()
        if not optimizer.built:
            optimizer.build(self._trainable)
        self._random = random_states(embedder, aggregator)
        self._sums = {id(v): tf.Variable(tf.zeros(v.shape, v.dtype), trainable=False) for v in self._trainable}
        self._functions: dict[str, Callable[..., Any]] = {}
        self._statistics_checked = False

    def _check(self) -> None:
        if self.chunk < 1:
            raise InputError(f"chunk: {self.chunk} is not a positive number of tiles")
        if not self._trainable:
            raise InputError(f"{self.embedder.name}: neither embedder nor aggregator has a trainable variable")
        if self.embedder.losses or self.aggregator.losses:
            raise InputError(f"{self.embedder.name}: its layers add losses (regularisers), which bags do not support")
        if any(len(getattr(v.value, "values", ())) > 1 for v in (*self._trainable, *self.optimizer.variables)):
            raise InputError(
                f"{self.embedder.name}: lies on several devices, but the tiles of one bag are trained on one; "
                "make model and optimizer outside strategy.scope()"
            )

    def __call__(self, batch: Batch, progress: Progress) -> Mapping[str, Any]:
        """Update the model with one bag.

        Returns:
            "loss" and "gradient_norm" (float32 scalars), "loss_per_sample" (1,); "skipped" as of a `GradientStep`.

        Raises:
            TrainingError: the bag is empty, or the embedder updates BatchNorm statistics.
        """
        tiles, rest = _one_bag(batch)
        if _count(tiles) <= self.chunk:
            with self._statistics_unchanged():
                loss, losses, update = self._call("whole step", self._whole_step, tiles, rest)
        else:
            loss, losses = self.accumulate(batch)
            update = self._call("update", self._update)
        return {"loss": loss, "loss_per_sample": losses, **update}

    def gradients(self, batch: Batch) -> list[np.ndarray]:
        """The bag's gradient for each of the optimizer's variables (embedder's, then aggregator's), no update made."""
        self.accumulate(batch)
        scale = loss_scale(self.optimizer)
        scale = 1.0 if scale is None else float(scale)
        return [self._sums[id(variable)].numpy() / scale for variable in self._trainable]

    def accumulate(self, batch: Batch) -> tuple[Any, Any]:
        """Leave the bag's gradient in the float32 sums, times `loss_scale`; returns the weighted loss (scalar) and the
        loss (1,)."""
        tiles, rest = _one_bag(batch)
        self._call("reset", self._reset)
        if _count(tiles) <= self.chunk:
            with self._statistics_unchanged():
                return self._call("whole", self._whole, tiles, rest)
        start = [state.numpy() for state in self._random]
        with self._statistics_unchanged():
            embeddings = [self._call("embed", self._embed, part) for part in _chunks(tiles, self.chunk)]
        loss, losses, gradient = self._call("bag", self._bag, tf.concat(embeddings, axis=0), rest)
        if self._embedder_part:
            end = [state.numpy() for state in self._random]
            _set(self._random, start)
            for part, part_gradient in zip(_chunks(tiles, self.chunk), _chunks(gradient, self.chunk), strict=True):
                self._call("backward", self._backward, part, part_gradient)
            _set(self._random, end)
        return loss, losses

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method as a graph that is traced once, for every number of tiles."""
        if name not in self._functions:
            self._functions[name] = traced(function, [batch_signature(argument) for argument in arguments])
        return self._functions[name](*arguments)

    def _reset(self) -> None:
        for total in self._sums.values():
            total.assign(tf.zeros(total.shape, total.dtype))

    def _embed(self, tiles: Any) -> Any:
        return float32(self.embedder(tiles, training=True))

    def _bag(self, embeddings: Any, rest: dict[str, Any]) -> tuple[Any, Any, Any]:
        variables = [variable.value for variable in self._aggregator_part]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([embeddings, *variables])
            loss, losses = self._loss(embeddings, rest)
            scaled = self.optimizer.scale_loss(loss)
        gradient, *gradients = tape.gradient(
            scaled, [embeddings, *variables], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        self._add(self._aggregator_part, gradients)
        return loss, losses, tf.convert_to_tensor(gradient)

    def _backward(self, tiles: Any, gradient: Any) -> None:
        variables = [variable.value for variable in self._embedder_part]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            embeddings = float32(self.embedder(tiles, training=True))
        gradients = tape.gradient(
            embeddings,
            variables,
            output_gradients=gradient,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        self._add(self._embedder_part, gradients)

    def _whole(self, tiles: Any, rest: dict[str, Any]) -> tuple[Any, Any]:
        loss, losses, gradients = self._whole_gradients(tiles, rest)
        self._add(self._trainable, gradients)
        return loss, losses

    def _whole_step(self, tiles: Any, rest: dict[str, Any]) -> tuple[Any, Any, Any]:
        loss, losses, gradients = self._whole_gradients(tiles, rest)
        return loss, losses, applied(self.optimizer, [tf.convert_to_tensor(g) for g in gradients], self._trainable)

    def _whole_gradients(self, tiles: Any, rest: dict[str, Any]) -> tuple[Any, Any, list[Any]]:
        variables = [variable.value for variable in self._trainable]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss, losses = self._loss(float32(self.embedder(tiles, training=True)), rest)
            scaled = self.optimizer.scale_loss(loss)
        return loss, losses, tape.gradient(scaled, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def _loss(self, embeddings: Any, rest: dict[str, Any]) -> tuple[Any, Any]:
        outputs = float32(self.aggregator(embeddings[None], training=True))
        losses = tf.cast(self.loss_fn(rest, outputs), tf.float32)
        losses.shape.assert_is_compatible_with([1])
        weights = tf.cast(rest["weight"], tf.float32) if "weight" in rest else tf.ones_like(losses)
        return tf.reduce_sum(weights * losses), losses

    def _add(self, variables: Sequence[Any], gradients: Sequence[Any]) -> None:
        for variable, gradient in zip(variables, gradients, strict=True):
            self._sums[id(variable)].assign_add(tf.convert_to_tensor(gradient))

    def _update(self) -> Any:
        gradients = [self._sums[id(variable)].read_value() for variable in self._trainable]
        return applied(self.optimizer, gradients, self._trainable)

    def _statistics_unchanged(self) -> "_Unchanged":
        first, self._statistics_checked = not self._statistics_checked, True
        return _Unchanged(self.embedder if first else None)


def _one_bag(batch: Batch) -> tuple[Any, dict[str, Any]]:
    """A bag's tiles, and what else its batch holds."""
    if len(batch["id"]) != 1:
        raise TrainingError(f"a bag step takes one bag, not {len(batch['id'])}")
    if _count(batch["x"]) == 0:
        raise TrainingError(f"the bag {np.asarray(batch['id']).tolist()} holds no tiles")
    return batch["x"], {name: value for name, value in batch.items() if name != "x"}


class _Unchanged:
    """Raises at its end where running the model has changed weights that are not trained (BatchNorm statistics)."""

    def __init__(self, model: Any) -> None:
        self._weights = model.non_trainable_weights if model is not None else []
        self._before = [weight.numpy() for weight in self._weights]

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            return
        for weight, before in zip(self._weights, self._before, strict=True):
            if not np.array_equal(weight.numpy(), before):
                raise TrainingError(
                    f"{weight.path}: is updated while a bag is embedded in chunks; its BatchNorm layer must run in "
                    "inference mode: give it trainable=False (Keras overrides a training=False of the graph)"
                )


def random_states(*models: Any) -> list[Any]:
    """The states of all seed generators (dropout) in these models, each once: `variables` has them, `weights` not."""
    states: dict[int, Any] = {}
    for model in models:
        weights = {id(weight) for weight in model.weights}
        states |= {id(v): v for v in model.variables if id(v) not in weights}
    return list(states.values())


class BagAnswer(NamedTuple):
    """What a model says of one bag.

    Attributes:
        probability: of the positive class.
        attention: float32 (N,), in the order of the tiles; sums to one.
        embeddings: float32 (N, C).
    """

    probability: float
    attention: np.ndarray
    embeddings: np.ndarray


def predict_bag(embedder: Any, aggregator: Any, chunks: Iterable[Any]) -> BagAnswer:
    """Predict one bag whose tiles come in chunks: 20,000 tiles need the memory of one chunk and of the embeddings.

    For many bags make one `BagPredictor`, which traces the model once.

    Args:
        embedder: Keras model, tiles (n, h, w, 3) -> (n, C).
        aggregator: Keras model, (1, N, C) -> {"probability": (1, 1), "attention": (1, N)}.
        chunks: tiles (n, h, w, 3), in the bag's order; or batches, dicts that hold them as "x".

    Raises:
        InputError: the bag holds no tiles.
    """
    return BagPredictor(embedder, aggregator)(chunks)


class BagPredictor:
    """`predict_bag` for many bags with the same model."""

    def __init__(self, embedder: Any, aggregator: Any) -> None:
        self._embed = traced(lambda tiles: float32(embedder(tiles, training=False)))
        self._aggregate = traced(lambda values: aggregator(values, training=False))

    def __call__(self, chunks: Iterable[Any]) -> BagAnswer:
        """As `predict_bag`."""
        parts = []
        for chunk in chunks:
            tiles = chunk["x"] if isinstance(chunk, Mapping) and "x" in chunk else chunk
            parts.append(self._embed(tf.nest.map_structure(tf.convert_to_tensor, tiles)).numpy())
        embeddings = np.concatenate(parts) if parts else np.empty((0, 0), np.float32)
        if len(embeddings) == 0:
            raise InputError("a bag without tiles cannot be predicted")
        outputs = self._aggregate(tf.constant(embeddings[None]))
        probability = float(np.asarray(outputs["probability"]).reshape(-1)[0])
        return BagAnswer(probability, np.asarray(outputs["attention"], np.float32)[0], embeddings)


def _count(tiles: Any) -> int:
    return int(tf.nest.flatten(tiles)[0].shape[0])


def _chunks(tiles: Any, chunk: int) -> Iterable[Any]:
    for start in range(0, _count(tiles), chunk):
        yield tf.nest.map_structure(lambda values, at=start: values[at : at + chunk], tiles)


def _set(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
