"""What happens with one batch: the Step protocol, the gradient step, and several devices.

The loop (`melano_tf.training.loop`) owns order, resume, logging and checkpoints; a step owns the mathematics of one
batch. Other kinds of training (bags, metric learning, distillation) are other steps, or other `loss_fn`s.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import keras
import tensorflow as tf

from melano_tf.errors import InputError, RunError
from melano_tf.training.batch_norm import synchronise_batch_norm
from melano_tf.training.hosts import Hosts
from melano_tf.training.optimizers import loss_scale

Batch = Mapping[str, Any]
LossFn = Callable[[Batch, Any], Any]  # (batch, outputs) -> (B,), or {term: (B,)} whose sum is the loss


class TrainingError(RunError):
    """The training cannot go on, for example because the loss is not finite. The message is complete."""


class Progress(NamedTuple):
    """How far the training is, as scalar int64 tensors, so that a traced step is traced once.

    Attributes:
        step: global step, from 0.
        epoch: current epoch, from 0.
        steps: steps of the whole training.
        epochs: epochs of the whole training.
    """

    step: Any
    epoch: Any
    steps: Any
    epochs: Any

    @property
    def fraction(self) -> Any:
        """Share of the steps that are done, float32 scalar in [0, 1)."""
        return tf.cast(self.step, tf.float32) / tf.cast(self.steps, tf.float32)


WeightsFn = Callable[[Any, Batch, Progress], Any]


class Step(Protocol):
    """What is done with one batch. It returns at least {"loss": scalar}; other scalars are averaged and logged.

    "loss_per_sample" (B,), where given, is used to name the samples whose loss is not finite.
    """

    def __call__(self, batch: Batch, progress: Progress) -> Mapping[str, Any]:
        """Update the model with one batch."""
        ...


class GradientStep:
    """One update by the gradient of the weighted mean loss, L = (1/M) sum_i w_i L_i, M the global batch's size.

    The divisor is the number of samples, not the sum of weights. Layers with `trainable = False` at construction
    are left alone, and no activations are kept for them. A sample's weight is batch["weight"] (1 where the batch has
    none) times what `weights_fn` gives; weights are constants to the gradient. Losses that layers add themselves
    (`model.losses`) are added to the mean.

    Args:
        model: a built Keras model; it gets batch["x"], a tensor or a dict of tensors (images and metadata). A
            classifier gives logits (`melano_tf.models.classifier_head.logits_of`).
        optimizer: a Keras optimizer; built here if it is not yet.
        loss_fn: (batch, outputs) -> (B,) losses. Losses between samples (metric learning) and teachers
            (distillation) fit in here: it sees the whole batch of its device. A loss of several terms may be given as
            {name: (B,)}: the loss is their sum, and each term's weighted mean is returned under its name, too.
        weights_fn: (losses (B,), batch, progress) -> (B,) weights that depend on the samples' losses: self-paced
            learning, online hard example mining. It sees the global batch and all its losses, whatever the devices.
        strategy: a `tf.distribute` strategy under whose scope model and optimizer were made, or None. The global
            batch is cut into equal parts, one a replica; where it does not divide, the last sample is repeated
            with weight 0 (BatchNorm and losses between samples see those copies). BatchNorm's statistics are those of
            the global batch. Replicas draw the same dropout masks for their own samples. Losses and gradients are
            summed over replicas before clipping. On several hosts each is given the whole batch, of whose "x" it may
            have read its own part alone, which begins at "x_from" (`training.hosts.Share`).
        open_axes: leading axes of batch["x"] whose lengths may differ from batch to batch: 1, the samples; 2, also
            the instances of padded bags.

    Raises:
        InputError: nothing is trainable, the model ends in probabilities, or model or optimizer were made outside the
            strategy's scope.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        loss_fn: LossFn,
        weights_fn: WeightsFn | None = None,
        strategy: tf.distribute.Strategy | None = None,
        open_axes: int = 1,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loss_fn = loss_fn
        self.weights_fn = weights_fn
        self.open_axes = open_axes
        self.strategy = strategy or tf.distribute.get_strategy()
        self._hosts = Hosts.of(self.strategy)
        self._trainable = list(model.trainable_variables)
        if not self._trainable:
            raise InputError(f"{model.name}: has no trainable variable; unfreeze a layer")
        _check_ends_in_logits(model)
        for variable in (*self._trainable, *optimizer.variables):
            if not self.strategy.extended.variable_created_in_scope(variable.value):
                raise InputError(f"{variable.path}: was made outside the scope of {type(self.strategy).__name__}")
        if not optimizer.built:
            with self.strategy.scope():
                optimizer.build(self._trainable)
        if self.strategy.num_replicas_in_sync > 1:
            synchronise_batch_norm(model)
        self._samples = 0
        self._function: Callable[..., dict[str, Any]] | None = None

    def __call__(self, batch: Batch, progress: Progress) -> Mapping[str, Any]:
        """Update the model.

        Returns:
            loss, its terms, gradient_norm (float32 scalars), loss_per_sample (B,) float32; of an optimiser that scales
            the loss also "skipped", 1 where the gradients overflowed and the step was left out, else 0.
        """
        if self._function is None:
            signature = {**batch_signature(batch), "x": batch_signature(batch["x"], self.open_axes)}
            self._function = traced(self._global_step, [signature, batch_signature(progress)])
        return self._function(dict(batch), progress)

    def in_parts(self, samples: int) -> "GradientStep":
        """This step, with a batch done in parts of so many samples, one after the other; returns itself.

        Losses and gradients are added up to the whole batch's, but for what depends on the part: batch normalisation
        takes its statistics over it, dropout draws for it, and a loss between samples sees those of its part alone. A
        `weights_fn` gets the losses of the whole batch, for which every part is run once more.

        Raises:
            InputError: a part of no sample, or several devices.
        """
        if samples < 1 or self.strategy.num_replicas_in_sync > 1:
            raise InputError(f"parts of {samples} samples on {self.strategy.num_replicas_in_sync} devices")
        self._samples = samples
        return self

    def _global_step(self, batch: dict[str, Any], progress: Progress) -> dict[str, Any]:
        if self.strategy.num_replicas_in_sync > 1:
            losses, scalars, gradients = self._distribute(batch, progress)
        elif self._samples:
            losses, scalars, gradients = self._summed(batch, progress)
        else:
            losses, scalars, gradients = self._replica(batch, batch, progress)
        return {**scalars, "loss_per_sample": losses, **applied(self.optimizer, gradients, self._trainable)}

    def _summed(self, batch: dict[str, Any], progress: Progress) -> tuple[Any, dict[str, Any], list[Any]]:
        """As `_replica` of the whole batch, part by part."""
        size = batch_size(batch)
        weights = self._weights_ahead(batch, progress)

        def done(start: Any) -> Any:
            def weigh(losses: Any) -> Any:
                return weights[start : start + self._samples]

            share = tf.cast(tf.minimum(self._samples, size - start), tf.float32) / tf.cast(size, tf.float32)
            return self._gradients(_rows(batch, start, self._samples), weigh, size, 1.0 / share)

        def more(start: Any, losses: Any, *sums: Any) -> Any:
            own, *others = done(start)
            added = tf.nest.map_structure(tf.add, list(sums), others)
            return start + self._samples, tf.concat([losses, own], axis=0), *added

        first = (self._samples, *done(0))
        shapes = tf.nest.map_structure(lambda value: tf.convert_to_tensor(value).shape, first)
        shapes = (shapes[0], tf.TensorShape([None]), *shapes[2:])
        _, losses, scalars, gradients = tf.while_loop(
            lambda start, *_: start < size, more, first, shapes, parallel_iterations=1
        )
        return losses, scalars, gradients

    def _weights_ahead(self, batch: dict[str, Any], progress: Progress) -> Any:
        """The weights (B,) of a batch that is done in parts; nothing but that is left of the passes for them."""
        if self.weights_fn is None:
            return self._weights(None, batch, progress)
        size, states = batch_size(batch), list(self.model.non_trainable_variables)
        before = [tf.identity(state.value) for state in states]

        def more(start: Any, losses: Any) -> Any:
            part = _rows(batch, start, self._samples)
            own, _ = self._losses(part)
            return start + self._samples, tf.concat([losses, own], axis=0)

        shapes = (tf.TensorShape([]), tf.TensorShape([None]))
        _, losses = tf.while_loop(
            lambda start, _: start < size, more, (0, tf.zeros([0])), shapes, parallel_iterations=1
        )
        with tf.control_dependencies([losses]):
            for state, value in zip(states, before, strict=True):
                state.assign(value)
        return tf.stop_gradient(self._weights(losses, batch, progress))

    def _distribute(self, batch: dict[str, Any], progress: Progress) -> tuple[Any, dict[str, Any], list[Any]]:
        def on_replica() -> tuple[Any, dict[str, Any], list[Any]]:
            losses, scalars, gradients = self._replica(self._part(batch), batch, progress)
            if self._hosts:  # of the others' losses nothing lies here
                losses = tf.distribute.get_replica_context().all_gather(losses, axis=0)
            return losses, scalars, gradients

        losses, scalars, gradients = self.strategy.run(on_replica)
        found = self.strategy.experimental_local_results(losses)
        losses = (found[0] if self._hosts else tf.concat(found, axis=0))[: batch_size(batch)]

        def total(value: Any) -> Any:
            return self.strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)

        return losses, {name: total(value) for name, value in scalars.items()}, [total(value) for value in gradients]

    def _part(self, batch: dict[str, Any]) -> dict[str, Any]:
        """This replica's samples of the global batch; all replicas get equally many."""
        size = batch_size(batch)
        replicas = self.strategy.num_replicas_in_sync
        each = (size + replicas - 1) // replicas
        ahead = self._replica_id() * each + tf.range(each)
        places = {name: tf.minimum(ahead, size - 1) for name in batch}
        if "x_from" in places:  # only this host's part of x was read
            places["x"] = ahead - tf.cast(batch["x_from"], tf.int32)
            del places["x_from"]
        with tf.device("CPU:0"):  # the whole batch does not have to visit every device; strings cannot
            return {
                name: tf.nest.map_structure(lambda values, own=own: tf.gather(values, own), batch[name])
                for name, own in places.items()
            }

    def _replica(
        self, part: dict[str, Any], batch: dict[str, Any], progress: Progress
    ) -> tuple[Any, dict[str, Any], list[Any]]:
        """Losses (b,) of this replica's samples, its shares of the global loss and its terms, the loss's gradients."""

        def weigh(losses: Any) -> Any:
            return tf.stop_gradient(self._weights(losses, batch, progress))

        return self._gradients(part, weigh, batch_size(batch), self.strategy.num_replicas_in_sync)

    def _gradients(
        self, part: dict[str, Any], weigh: Callable[[Any], Any], size: Any, parts: Any
    ) -> tuple[Any, dict[str, Any], list[Any]]:
        """Losses of some samples of a batch of `size`, their shares of its loss and terms, the gradients of its share.

        Args:
            part: the samples.
            weigh: their losses (b,) -> their weights (b,).
            size: samples of the whole batch.
            parts: by what the losses that layers add are divided.
        """
        trainable = [variable.value for variable in self._trainable]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trainable)
            losses, terms = self._losses(part)
            weights = weigh(losses)
            count = tf.cast(size, tf.float32)
            loss = tf.reduce_sum(weights * losses) / count
            if self.model.losses:
                loss += tf.cast(tf.add_n(self.model.losses), tf.float32) / parts
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        shares = {name: tf.reduce_sum(weights * term) / count for name, term in terms.items()}
        return losses, {"loss": loss, **shares}, [tf.convert_to_tensor(gradient) for gradient in gradients]

    def _losses(self, part: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The losses (b,) of samples, and their terms by name, float32."""
        found = self.loss_fn(part, float32(self.model(part["x"], training=True)))
        terms = dict(found) if isinstance(found, Mapping) else {}
        terms = {name: tf.cast(term, tf.float32) for name, term in terms.items()}
        losses = tf.add_n(list(terms.values())) if terms else tf.cast(found, tf.float32)
        losses.shape.assert_has_rank(1)
        return losses, terms

    def _weights(self, losses: Any, batch: dict[str, Any], progress: Progress) -> Any:
        """The weights (b,) of this replica's samples, computed from the global batch."""
        size = batch_size(batch)
        weights = tf.cast(batch["weight"], tf.float32) if "weight" in batch else tf.ones([size], tf.float32)
        replicas = self.strategy.num_replicas_in_sync
        if self.weights_fn is not None:
            everyone = losses
            if replicas > 1:
                everyone = tf.distribute.get_replica_context().all_gather(losses, axis=0)[:size]
            weights *= tf.cast(self.weights_fn(tf.stop_gradient(everyone), batch, progress), tf.float32)
        if replicas == 1:
            return weights
        each = tf.shape(losses)[0]
        padded = tf.pad(weights, [[0, each * replicas - size]])
        start = self._replica_id() * each
        return padded[start : start + each]

    @staticmethod
    def _replica_id() -> Any:
        return tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)


def float32(outputs: Any) -> Any:
    """A network's outputs as losses and people take them, whatever it computes in."""
    return tf.nest.map_structure(lambda each: tf.cast(each, tf.float32) if each.dtype.is_floating else each, outputs)


def applied(optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> dict[str, Any]:
    """Update variables by gradients of a loss times `loss_scale`; returns "gradient_norm" and perhaps "skipped"."""
    norm, scale = tf.linalg.global_norm(gradients), loss_scale(optimizer)
    found = {"gradient_norm": norm}
    if scale is not None:
        fine = tf.math.is_finite(norm)
        found = {"gradient_norm": tf.where(fine, norm / scale, 0.0), "skipped": 1.0 - tf.cast(fine, tf.float32)}
    optimizer.apply(gradients, variables)
    return found


def _rows(batch: Any, start: Any, count: int) -> Any:
    """Some samples of a batch, from one on."""
    return tf.nest.map_structure(lambda values: values[start : start + count], batch)


def _check_ends_in_logits(model: Any) -> None:
    """A loss of logits that is given probabilities would train, and wrongly."""
    if isinstance(getattr(model, "output", None), dict) and "logits" in model.output:
        return  # its loss takes those, whatever else it gives
    for output in getattr(model, "outputs", None) or ():
        layer = output._keras_history.operation
        ends = (keras.activations.softmax, keras.activations.sigmoid)
        if getattr(layer, "activation", None) in ends or isinstance(layer, keras.layers.Softmax):
            raise InputError(f"{model.name}: ends in probabilities ({layer.name}); the losses take logits")


def batch_size(batch: Batch) -> Any:
    """Number of samples of a batch, int32 scalar."""
    return tf.shape(batch["id"])[0]


def batch_signature(batch: Any, open_axes: int = 1) -> Any:
    """The tensor specs of a batch with an open first dimension, or with several.

    A fixed signature makes one trace for every batch size, and therefore the same arithmetic in a resumed process,
    whichever batch it meets first.
    """

    def spec(value: Any) -> tf.TensorSpec:
        value = tf.convert_to_tensor(value)
        opened = min(open_axes, value.shape.rank)
        shape = [None] * opened + list(value.shape[opened:])
        return tf.TensorSpec(shape, value.dtype)

    return tf.nest.map_structure(spec, dict(batch) if isinstance(batch, Mapping) else batch)


def traced(function: Callable[..., Any], signature: list[Any] | None = None) -> Callable[..., Any]:
    """`function` as a TensorFlow graph, for the given signature or (None) for the shapes that it meets."""
    # A partial, because TensorFlow counts traces by code and would warn of the same code traced for several models.
    return tf.function(
        functools.partial(function), input_signature=signature, reduce_retracing=signature is None, autograph=False
    )
