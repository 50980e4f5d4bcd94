"""One training from its description: seed, build, optimise, judge, and save the model with its sidecar."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.predictions import write_predictions
from melano_tf.runs.run_folder import Run
from melano_tf.runs.sidecar import Sidecar
from melano_tf.seeding import seeded
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.training.batch_norm import has_batch_statistics
from melano_tf.training.checkpoint import training_variables, weights_sha256
from melano_tf.training.describe import Shown, describe
from melano_tf.training.exact_bags import random_states
from melano_tf.training.fed_cases import Fed, check_chain, record_path
from melano_tf.training.hosts import Hosts, shared_out
from melano_tf.training.loop import Batches, GradientStep, History, LoopSettings, ProgressBar, Watch, train
from melano_tf.training.progress import bar_over_epochs
from melano_tf.training.steps import LossFn, Step, traced
from melano_tf.training.tensorflow_runtime import computing_in, strategy

Frames = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Network:
    """A network that is ready to be trained.

    Attributes:
        trained: what the step is done with; a classifier's logits.
        optimizer: on its trainable variables.
        saved: what is judged and saved, on the same layers: what gives probabilities.
        said: a line for the person at the terminal, for example which weights were loaded; "" for none.
        loss: of a loss that holds networks itself (a frozen teacher), which must be made where this one is; else None.
        predictor: what asks it, where that is more than one forward pass (a bag's tiles in chunks); else None.
    """

    trained: keras.Model
    optimizer: keras.optimizers.Optimizer
    saved: keras.Model
    said: str = ""
    loss: LossFn | None = None
    predictor: Any = None

    @functools.cached_property
    def answer(self) -> Callable[[Any], Any]:
        """The saved model's forward pass without dropout, traced once for all who ask."""
        return traced(functools.partial(self.saved, training=False))

    @functools.cached_property
    def forward(self) -> Callable[[Any], Any]:
        """The trained model's (a classifier's logits), likewise."""
        return traced(functools.partial(self.trained, training=False))


@dataclass(frozen=True)
class LoopContext:
    """What a training's own loop is given beside the network.

    Attributes:
        settings: epochs, and the watch for a training that stands still.
        folder: of the checkpoint and of what else the loop keeps; it survives a kill.
        progress: shows (steps done, last loss).
        devices: the strategy under whose scope the network was made, or None.
        batches: the training's, each of which is noted as it is given: those to be trained on.
        fed: notes what the loop looks at beside them (`Fed.also`).
    """

    settings: LoopSettings
    folder: Path
    progress: ProgressBar
    devices: Any
    batches: Batches
    fed: Fed


Loop = Callable[[Network, LoopContext], History]


@dataclass(frozen=True)
class Training:
    """What differs between trainings; the rest is `fit`'s.

    Attributes:
        stem: of its files: models/<stem>.keras with .json, history/<stem>.csv, logs/<stem>.
        seed: of the network's initial weights and dropout.
        epochs: how many; the last one is judged unless `ending` says otherwise.
        build: () -> the network; called under the devices' scope, after Keras was seeded.
        batches: the training batches by global step.
        sides: who may be fed, who is held out, who is judged, and what it stands on; an overlap is refused, and so is a
            batch with somebody who has no part. What was really fed comes to lie in audit/<stem>.parquet.
        step: (network, devices) -> what is done with a batch; None for a training with a `loop` of its own.
        judge: (the trained network) -> tables of predictions by file name, and its sidecar, to which provenance is
            added; None: another step judges it (`write_judgement`).
        prior: loss of a network that answers with the class shares, by which a training that stands still is known.
        ending: (network, fed) -> an object that ends the training early and gives the model its best weights back, or
            None; the batches that it looks at go through `fed.chose`.
        spread: over all devices under --mirror; False: on one, for a step that cannot be spread (a bag's).
        around: (step, network) -> that step with what is this training's alone: a learning rate that is set, a log.
        start: weights of `trained` (as `get_weights` gives them) in the place of those that it was built with.
        loop: (network, context) -> the history, where a training is more than steps over batches (new pseudo-labels
            before each epoch); None: `training.loop.train` with `step`.
        alike: (of what kind, which) network, optimiser and step are, whatever their initial weights: of trainings that
            are equal, the next takes the traced network of the last, with the variables that it would have built; of
            each kind one stands in memory. None: it has a network of its own.
        shown: its cases as the saved model sees them, of which it is then described what is familiar to it
            (`training.describe`); None: it decides nothing, or another step describes it.

    Raises:
        ValueError: both `step` and `loop`, or neither.
    """

    stem: str
    seed: int
    epochs: int
    build: Callable[[], Network]
    batches: Batches
    sides: Sides
    step: Callable[[Network, Any], Step] | None = None
    judge: Callable[[Network], tuple[Frames, Sidecar]] | None = None
    prior: float | None = None
    ending: Callable[[Network, Fed], Any] | None = None
    spread: bool = True
    around: Callable[[Step, Network], Step] | None = None
    start: Sequence[np.ndarray] | None = None
    loop: Loop | None = None
    alike: tuple[str, Any] | None = None
    shown: Shown | None = None

    def __post_init__(self) -> None:
        if (self.step is None) == (self.loop is None):
            raise ValueError(f"{self.stem}: a training has either a step or a loop of its own")


class Prepared:
    """A network that several trainings share, one after the other: traced once, set back before each.

    Attributes:
        network: the network.
        step: what is done with a batch; it is traced at the first one.
        stem: of the training that it was built for.
    """

    def __init__(self, network: Network, step: Step, stem: str) -> None:
        self.network, self.step, self.stem = network, step, stem
        self._variables = training_variables(network.trained, network.optimizer)
        self._start = [np.array(keras.ops.convert_to_numpy(variable)) for variable in self._variables]

    def reset(self, like: Network | None = None) -> None:
        """Set weights, statistics, seed generators and the optimiser's variables to how they were built.

        Args:
            like: a network that differs in its initial weights and seed generators alone: it is set to these.
        """
        start = self._start
        if like is not None:
            own = like.trained.variables
            start = [np.array(keras.ops.convert_to_numpy(variable)) for variable in own] + start[len(own) :]
        for variable, value in zip(self._variables, start, strict=True):
            variable.assign(value)


def by_gradient(loss: LossFn | None = None, **options: Any) -> Callable[[Network, Any], Step]:
    """A `Training.step` that follows the gradient of a loss; without one, of the loss that the network brings."""

    def step(network: Network, devices: Any) -> Step:
        chosen = loss if loss is not None else network.loss
        if chosen is None:
            raise ValueError("by_gradient without a loss, and the network brings none")
        return GradientStep(network.trained, network.optimizer, chosen, strategy=devices, **options)

    return step


def fit(run: Run, training: Training, scratch: Path, prepared: Prepared | None = None) -> list[Path]:
    """Do a training, judge its model and save both; a killed one goes on from its checkpoint.

    Args:
        run: the open run, in whose folder the files come to lie.
        training: its description.
        scratch: folder of the checkpoint, which survives a kill.
        prepared: a network that is there already, from `prepare` for a training of the same build and step; and of the
            same seed, unless the training says what it is `alike`.

    Returns:
        The files written: model, history, the record of who was fed and the description of them, and where it is judged
        sidecar and predictions.

    Raises:
        LeakError: somebody who is judged or held out was fed, here or in what the training stands on.
    """
    network, history = optimise(run, training, scratch, prepared)
    if not run.writes:
        raise ValueError(f"{training.stem}: its step has a training behind one that is judged; other hosts left it")
    stem, model = training.stem, network.saved
    files = [run.path("models", f"{stem}.keras"), history.write(run.path("history", f"{stem}.csv"))]
    files.append(record_path(run, stem))
    run.keep_logs(scratch, stem)
    judged = training.judge(network) if training.judge is not None else None
    with atomic(files[0]) as temporary:
        model.save(temporary)
    if training.shown is not None:
        files += describe(run, Fed(stem, training.sides, scratch), model, training.shown)
    return files if judged is None else [*files, *write_judgement(run, stem, model, *judged)]


def write_judgement(run: Run, stem: str, model: keras.Model, frames: Frames, sidecar: Sidecar) -> list[Path]:
    """Write what a model said of the cases it was asked about, and its sidecar with provenance; returns the files.

    Args:
        run, stem, model, sidecar: of the model.
        frames: by file name: its predictions, called `stem`, in the form of `runs.predictions`; the others as they are.

    Raises:
        RunError: the predictions are not of the form.
    """
    written = []
    for name, frame in frames.items():
        write = write_predictions if Path(name).stem == stem else write_frame
        written.append(write(run.path("predictions", name), frame))
    path = run.path("models", f"{stem}.keras")
    return [with_provenance(run, sidecar, model).write(path), *written]


def prepare(run: Run, training: Training) -> Prepared:
    """A network of this training's build and step, for all trainings that have the same."""
    _meet(run, training)
    network, devices = _built(run, training)
    step = _step(run, training, network, devices)
    if step is None:
        raise ValueError(f"{training.stem}: has a loop of its own, and no step to prepare")
    return Prepared(network, step, training.stem)


def _meet(run: Run, training: Training) -> None:
    """Wait for the other hosts, where a training is spread over them."""
    if run.company is not None and training.spread:
        run.company.begin(training.stem)


def _built(run: Run, training: Training) -> tuple[Network, Any]:
    """The network, and the devices that it was made on."""
    keras.utils.set_random_seed(training.seed)
    devices = strategy(training.spread and bool(run.settings.get("mirror")))
    computing = computing_in(run.settings.get("precision", "float32"))
    with devices.scope() if devices else contextlib.nullcontext(), seeded(training.seed), computing:
        network = training.build()
    if network.said:
        run.say(f"{training.stem}: {network.said}")
    return network, devices


def _step(run: Run, training: Training, network: Network, devices: Any) -> Step | None:
    """What is done with a batch, in parts under --micro-batch; None for a training with a loop of its own."""
    step = None if training.step is None else training.step(network, devices)
    samples = int(run.settings.get("micro_batch", 0))
    if not samples:
        return step
    if isinstance(step, GradientStep):
        if differs := changed_by_parts(network.trained, samples):
            run.say(f"{training.stem}: --micro-batch: {', '.join(differs)}")
        return step.in_parts(samples)
    why = "its loss compares the samples of a batch" if step is None else "a bag's tiles are done in chunks already"
    run.say(f"{training.stem}: --micro-batch changes nothing: {why}")
    return step


def changed_by_parts(model: keras.Model, samples: int) -> list[str]:
    """In what a batch that is done in parts of so many samples differs from the whole one, but for rounding."""
    layers = model._flatten_layers(include_self=False)
    words = {
        f"BatchNorm takes its statistics over {samples} samples": has_batch_statistics(model),
        f"dropout draws its masks anew for every {samples} samples": random_states(model),
        f"mixup blends within {samples} samples": any(getattr(layer, "blends_samples", False) for layer in layers),
    }
    return [each for each, does in words.items() if does]


def optimise(run: Run, training: Training, scratch: Path, prepared: Prepared | None = None) -> tuple[Network, History]:
    """Build a network, or set a prepared one back, and train it; from the checkpoint in `scratch` if there is one.

    Beside what is returned, audit/<stem>.parquet is written. Under --mirror on several hosts all of them call this, and
    the chief alone writes.

    Raises:
        LeakError: as `fit`.
    """
    check_chain(run, training.stem, training.sides)
    _meet(run, training)
    if run.company is not None and not training.spread:
        run.say(f"{training.stem}: bags are not spread over hosts; this one trains it alone")
    fed = Fed(training.stem, training.sides, scratch if run.writes else None)
    if prepared is None:
        network, devices = _built(run, training)
        step = _step(run, training, network, devices)
    else:
        network, devices, step = prepared.network, None, prepared.step
        own = training.alike is None or training.stem == prepared.stem
        prepared.reset(None if own else _built(run, training)[0])
    if training.start is not None:
        network.trained.set_weights(list(training.start))
    watch = None if training.prior is None else Watch(training.stem, training.prior, run.say)
    settings = LoopSettings(epochs=training.epochs, watch=watch)
    hosts = Hosts.of_model(network.trained)
    batches = training.batches if hosts is None else shared_out(training.batches, hosts.share)
    with (run.bars or bar_over_epochs)(training.stem, training.epochs, batches.steps_per_epoch) as progress:
        watched = fed.batches(batches)
        context = LoopContext(settings, scratch, progress, devices, watched, fed)
        if training.loop is not None:
            history = training.loop(network, context)
        else:
            history = _over_batches(training, network, step, context)
    if training.loop is not None and not fed.steps:
        raise ValueError(f"{training.stem}: its loop took no batch of `context.batches`: who was fed is not known")
    if run.writes:
        watched.catch_up(len(history) * batches.steps_per_epoch)
        fed.write(run)
    elif run.company is not None:
        run.company.end()
    return network, history


def _over_batches(training: Training, network: Network, step: Any, context: LoopContext) -> History:
    """The loop of most trainings: their step over their batches, ended early where they say so."""
    if training.around is not None:
        step = training.around(step, network)
    early = training.ending(network, context.fed) if training.ending is not None else None
    hooks = {} if early is None else {"epoch_end": early, "extra_variables": early.variables}
    history = train(
        step,
        context.batches,
        context.settings,
        context.folder,
        network.trained,
        network.optimizer,
        progress=context.progress,
        **hooks,
    )
    if early is not None:
        early.finish(history)
    return history


def write_frame(path: Path, frame: pd.DataFrame) -> Path:
    """Write a table as Parquet or CSV, by the suffix, atomically; returns the path."""
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            frame.to_parquet(temporary)
        else:
            frame.to_csv(temporary, index=False)
    return path


def with_provenance(run: Run, sidecar: Sidecar, model: keras.Model) -> Sidecar:
    """A sidecar that also says which run a model came from, and the digest of its weights."""
    names: Sequence[str] = [name for name in ("preset", "seed", "slides", "table") if name in run.settings]
    facts = {
        "weights_sha256": weights_sha256(model),
        "recipe": run.recipe,
        "folder": str(run.folder),
        **{name: run.settings[name] for name in names},
    }
    return dataclasses.replace(sidecar, run={**sidecar.run, **facts})
