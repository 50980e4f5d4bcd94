"""The answers of `serving.image`, `.classes`, `.slide` and `.magnifications` from an exported model, served or not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.pipelines.tiles import TileImages
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.classes import ClassAnswer
from melano_tf.serving.client import Client, RefusedError, refusal_words
from melano_tf.serving.image import CHUNK, ImageAnswer, Patient
from melano_tf.serving.kinds import checked_kind
from melano_tf.serving.magnified_slide import OWN, judged_by, tile_signatures


def served_sidecar(card: Mapping[str, Any]) -> Sidecar:
    """The sidecar that an exported model carries.

    Raises:
        InputError: the card is of another program or version, or of a model that answers nothing.
    """
    sidecar = _sidecar(card.get("sidecar"), "the model's card")
    checked_kind(sidecar, "the model's card")
    wrong = [name for name in ("companions", "measured") if not isinstance(card.get(name) or {}, Mapping)]
    if wrong or not isinstance(card.get("file"), str):
        raise InputError(f"the model's card cannot be read ({(wrong or ['file'])[0]}); export the model again")
    return sidecar


def _sidecar(content: Any, where: str) -> Sidecar:
    try:
        return Sidecar(**{**content, "classes": tuple(content["classes"])})
    except (TypeError, KeyError) as error:
        raise InputError(f"{where} cannot be read ({error}); export the model again") from None


def ask_images(
    client: Client, sidecar: Sidecar, images: Sequence[Path], patients: Mapping[str, Patient]
) -> list[ImageAnswer]:
    """`serving.image.predict_images` by an exported model: one answer an image, in their order."""
    answers: list[ImageAnswer] = []
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        told = [patients.get(path.stem, Patient()) for path in part]
        contents = [_read(path) for path in part]
        readable = [i for i, content in enumerate(contents) if isinstance(content, bytes)]
        encoded = [contents[i] for i in readable]
        rows, blank = _ask(client, sidecar, encoded, [told[i] for i in readable])
        place = {i: row for row, i in enumerate(readable)}
        for i, path in enumerate(part):
            row = rows[place[i]] if i in place else str(contents[i])
            if isinstance(row, str):
                answers.append(ImageAnswer(path, None, None, told[i], row))
            else:
                alone = blank[place[i]] if blank else None
                answers.append(
                    ImageAnswer(
                        path,
                        float(_probabilities(client, row, sidecar)[1]),
                        float(_probabilities(client, alone, sidecar)[1]) if isinstance(alone, dict) else None,
                        told[i],
                        remark=str(row.get("remark", "")),
                    )
                )
    return answers


def ask_classes(client: Client, sidecar: Sidecar, images: Sequence[Path]) -> list[ClassAnswer]:
    """`serving.classes.predict_classes` by an exported model: one answer an image, in their order."""
    answers: list[ClassAnswer] = []
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        contents = [_read(path) for path in part]
        encoded = [content for content in contents if isinstance(content, bytes)]
        rows = iter(client.ask_each("serving_default", {"image_bytes": encoded}) if encoded else [])
        for path, content in zip(part, contents, strict=True):
            row = next(rows) if isinstance(content, bytes) else content
            if isinstance(row, str):
                answers.append(ClassAnswer(path, None, row))
            else:
                found = _probabilities(client, row, sidecar)
                answers.append(ClassAnswer(path, found / found.sum(), remark=str(row.get("remark", ""))))
    return answers


def _probabilities(client: Client, row: Mapping[str, Any], sidecar: Sidecar) -> np.ndarray:
    """The probability of each class in an answer, float64 (C,).

    Raises:
        InputError: the answer is none of this model.
    """
    found = _numbers(client, row, "probabilities", (len(sidecar.classes),))
    if not (np.all((found >= 0) & (found <= 1)) and abs(found.sum() - 1) < 1e-2):
        raise InputError(f"{client.transport.where}: its answer holds no probabilities ({found.tolist()})")
    return found


def _numbers(client: Client, row: Mapping[str, Any], name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A named output as finite numbers, float64, of this shape where one is given.

    Raises:
        InputError: it is missing, no numbers, or of another shape.
    """
    try:
        found = np.asarray(row[name], np.float64)
    except (KeyError, ValueError, TypeError):
        raise InputError(f"{client.transport.where}: its answer has no {name}; is it this model's server?") from None
    if not np.isfinite(found).all() or (shape is not None and found.shape != shape):
        raise InputError(f"{client.transport.where}: the {name} of its answer are none ({found.shape})")
    return found


def _read(path: Path) -> bytes | str:
    """The file's bytes, or why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _ask(client: Client, sidecar: Sidecar, encoded: Sequence[Any], told: Sequence[Patient]) -> tuple[list[Any], Any]:
    """Answers, and for a model with metadata those without them (None for one that takes none)."""
    if not encoded:
        return [], None
    if not sidecar.preprocessing.get("metadata"):
        return client.ask_each("serving_default", {"image_bytes": encoded}), None
    columns = {
        "image_bytes": encoded,
        "age": [np.float32(-1.0 if p.age != p.age else p.age) for p in told],
        "sex": [p.sex for p in told],
        "site": [p.site for p in told],
    }
    given = client.ask_each("serving_default", columns)
    # What was refused once need not be sent again.
    good = [i for i, row in enumerate(given) if isinstance(row, dict)]
    again = client.ask_each("image_only", {"image_bytes": [encoded[i] for i in good]}) if good else []
    blank: list[Any] = [None] * len(given)
    for i, row in zip(good, again, strict=True):
        blank[i] = row
    return given, blank


class ServedJudge:
    """A spitzoid model that is served: tiles go to `embed` in chunks, embeddings of the chosen ones to `aggregate`.

    Args:
        client: to the exported target model.
        card: its card.
    """

    def __init__(self, client: Client, card: Mapping[str, Any]) -> None:
        self.client = client
        self.source = _sidecar((card.get("companions") or {}).get("source"), "the source model's card")
        if self.source.kind != "spitzoid-source":
            raise InputError(f"{client.transport.where}: its source model is of kind {self.source.kind!r}")
        self._embeddings: dict[int, np.ndarray] = {}

    def tumour(self, tiles: pd.DataFrame, scratch: Path) -> np.ndarray:
        """Probability of tumour of each tile, (n,); their embeddings are kept for `biopsy`."""
        found = _ask_tiles(self.client, "embed", "tile_bytes", TileImages(tiles, scratch, self.source.input_px))
        self._embeddings = {
            int(tile): _numbers(self.client, row, "embeddings").astype(np.float32)
            for tile, row in zip(tiles["tile"], found, strict=True)
        }
        return np.array([_numbers(self.client, row, "tumour_probability", ()) for row in found], np.float32)

    def biopsy(self, selected: pd.DataFrame, scratch: Path) -> tuple[float, np.ndarray]:
        """Probability of the positive class, and attention (n,) of the selected tiles."""
        embeddings = np.stack([self._embeddings[int(tile)] for tile in selected["tile"]])[None]
        try:
            answer = self.client.ask(
                "aggregate", {"embeddings": embeddings, "mask": np.ones(embeddings.shape[:2], bool)}
            )
        except RefusedError as error:
            raise InputError(f"{self.client.transport.where}: {refusal_words(str(error))}") from None
        probability = _numbers(self.client, answer, "probabilities", (1, 2))
        attention = _numbers(self.client, answer, "attention", (1, len(selected)))
        return float(probability[0, 1]), attention[0].astype(np.float32)


class ServedTilesJudge:
    """A multimag model and its companions that are served as one; see `serving.magnified_slide.TilesJudge`.

    Args:
        client: to the exported model.
        card: its card.

    Raises:
        InputError: it was exported without its companions.
    """

    def __init__(self, client: Client, card: Mapping[str, Any]) -> None:
        self.client, self.sidecar = client, served_sidecar(card)
        given = card.get("companions") or {}
        if missing := [role for role in self.sidecar.companions if role not in given]:
            raise InputError(
                f"{client.transport.where}: exported without the models {', '.join(missing)}, which judge the slide's "
                "other magnifications; export the model again, or name the run's .keras file"
            )
        others = {role: _sidecar(given[role], f"{role}'s card") for role in self.sidecar.companions}
        judges = judged_by(self.sidecar, others)
        self._signatures = tile_signatures(judges)
        names = dict(self.sidecar.companions) | {OWN: str(card["file"])}
        self.files: Mapping[str, str] = {name: names[role] for name, role in judges.items()}

    def probabilities(self, magnification: str, tiles: pd.DataFrame, scratch: Path) -> np.ndarray:
        """Probability of each class, (n, classes)."""
        images = TileImages(tiles, scratch, self.sidecar.input_px)
        found = _ask_tiles(self.client, self._signatures[magnification], "image_bytes", images)
        return np.array([_probabilities(self.client, row, self.sidecar) for row in found], np.float32)


def _ask_tiles(client: Client, signature: str, name: str, images: TileImages) -> list[Mapping[str, Any]]:
    """The answers to all tiles, sent as the store's own JPEGs; few of them are in memory at once.

    Raises:
        InputError: a tile was refused.
    """
    step = 16 * client.settings.chunk
    found: list[Any] = []
    for start in range(0, images.count, step):
        jpegs = images.jpegs(np.arange(start, min(start + step, images.count)))
        found += client.ask_each(signature, {name: list(jpegs)})
    if wrong := [row for row in found if isinstance(row, str)]:
        raise InputError(f"{client.transport.where}: {len(wrong)} of {images.count} tiles refused: {wrong[0]}")
    return found
