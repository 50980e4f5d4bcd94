"""After a training: describe whom it was fed, so that its model knows what it does not know."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from melano_tf.runs import journal
from melano_tf.runs.run_folder import Run
from melano_tf.training.checkpoint import weights_sha256
from melano_tf.training.embedding import embedder
from melano_tf.training.familiarity import familiar_path, fit_familiarity
from melano_tf.training.fed_cases import Fed
from melano_tf.training.steps import Batch, traced

MOST = 1000  # cases described, and as many that are measured: they bound the file and the time
EAGER = 256  # up to so many cases tracing the network takes longer than what it saves


@dataclass(frozen=True)
class Shown:
    """Cases as the saved model sees them when it is asked: not augmented.

    Attributes:
        ids: of all that may be shown, as they stand in batches: images, slide/tile, bags.
        batches: (places in `ids`, int (n,), ascending) -> batches with "x" and "id", in that order.
    """

    ids: Sequence[str]
    batches: Callable[[np.ndarray], Iterable[Batch]]


def describe(run: Run, fed: Fed, model: keras.Model, shown: Shown) -> list[Path]:
    """Write the description of a training beside its model, and whom it is of into the training's record.

    Only cases that `fed.sides` lets train are described, and only those that it holds out set the limit; where it holds
    out nobody, training cases do, each measured without its own group (`fit_familiarity`).

    Args:
        run: the open run.
        fed: the training's record; it refuses whoever has no part.
        model: as it is saved.
        shown: its cases.

    Returns:
        The file written, models/<stem>.familiar.npz; none of too few cases: then that of an earlier training goes.

    Raises:
        LeakError: a case has no such part in the training.
    """
    network, path = embedder(model), run.path("models", f"{fed.stem}.keras")
    if network is None:
        journal.remove(familiar_path(path))
        return []
    sides = fed.sides
    cases = [sides.case(name) for name in shown.ids]
    own, held = (_drawn(cases, side) for side in (sides.trains, sides.held_out))
    embeddings, looks = _embedded(network, fed.also(shown.batches(own)), len(own))
    held_out = _embedded(network, fed.chose(shown.batches(held)), len(held)) if len(held) else None
    found = fit_familiarity(embeddings, looks, [sides.groups[cases[place]] for place in own], held_out)
    fed.write(run)
    if found is None:
        journal.remove(familiar_path(path))
        run.say(f"{fed.stem}: too few training cases to describe: it will not be told what is unlike them")
        return []
    facts = {**found.facts, "weights_sha256": weights_sha256(model)}
    return [found.with_facts(facts).write(path)]


def _drawn(cases: Sequence[str], side: Iterable[str]) -> np.ndarray:
    """Places of at most `MOST` whose case is on a side, the same in every session, ascending."""
    wanted = frozenset(side)
    places = np.array([place for place, case in enumerate(cases) if case in wanted], np.int64)
    return np.sort(np.random.default_rng(0).permutation(places)[:MOST])


def _embedded(network: keras.Model, batches: Iterable[Batch], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (n, D) and their pictures' numbers (n, L); L is 0 where there are no pictures."""

    def call(x: Any) -> Any:
        return network(x, training=False)

    forward = traced(call) if count > EAGER else call
    parts = []
    for batch in batches:
        found = forward(_inputs(network, batch["x"]))
        embedding = np.asarray(found["embedding"], np.float32)
        parts.append((embedding, np.asarray(found.get("look", np.zeros((len(embedding), 0))), np.float64)))
    if not parts:
        return np.zeros((0, 1), np.float32), np.zeros((0, 0))
    return np.concatenate([one for one, _ in parts]), np.concatenate([one for _, one in parts])


def _inputs(network: keras.Model, x: Any) -> Any:
    """What the embedder takes of a batch's "x": of a picture with metadata the picture alone."""
    if isinstance(network.input, Mapping):
        return {name: keras.ops.convert_to_tensor(x[name]) for name in network.input}
    picture = x["image"] if isinstance(x, Mapping) else x
    return keras.ops.cast(picture, network.inputs[0].dtype)
