"""What stands with each trained model: one JSON file that says what the model is and how it answers."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from melano_tf.errors import InputError, line_of
from melano_tf.runs.atomic_files import read_json, write_json
from melano_tf.runs.settings_digest import plain


@dataclasses.dataclass(frozen=True)
class Sidecar:
    """What stands beside every trained model, as `<model>.json`: all that predict, export and the report need.

    Attributes:
        kind: which family of model this is, for example "spitzoid-target".
        classes: names in the order of the outputs.
        input_px: side of the square input in pixels.
        preprocessing: how an input is made: mpp, tile size, colour order, scaling.
        threshold: decision threshold on the probability of the second of two classes; None where there is none: the
            most probable of several classes is called, or (an embedding) nothing is decided.
        threshold_from: where the threshold was chosen, or why there is none.
        calibration: parameters of the probability's calibration, or None where none was fitted.
        taxonomy: the tree of classes of a hierarchical model, or None.
        run: recipe, seed, step key and measured numbers of the run it came from.
        companions: other model files that it needs, relative to its own folder.
        threshold_measured: what the threshold reaches where it was chosen (`evaluation.thresholds.Threshold.to_json`),
            or None where it was measured nowhere.
        companion_weights: by role, the `weights_sha256` of the companions that the model was judged with; {} of models
            that need none, and of earlier runs.
    """

    kind: str
    classes: tuple[str, ...]
    input_px: int
    preprocessing: Mapping[str, Any]
    threshold: float | None
    threshold_from: str
    run: Mapping[str, Any]
    calibration: Mapping[str, Any] | None = None
    taxonomy: Mapping[str, Any] | None = None
    companions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    threshold_measured: Mapping[str, Any] | None = None
    companion_weights: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def cut(self) -> float:
        """The threshold of a model that has one.

        Raises:
            InputError: it has none.
        """
        if self.threshold is None:
            raise InputError(f"a model of kind {self.kind!r} and {len(self.classes)} classes has no threshold")
        return self.threshold

    @staticmethod
    def path(model: Path) -> Path:
        """Where the sidecar of a model file lies."""
        return Path(model).with_suffix(".json")

    def write(self, model: Path) -> Path:
        """Write the sidecar beside a model file; returns its path."""
        write_json(self.path(model), plain(self))
        return self.path(model)

    @classmethod
    def read(cls, model: Path) -> "Sidecar":
        """The sidecar of a model file.

        Raises:
            InputError: the model or its sidecar is missing or damaged.
        """
        if not Path(model).is_file():
            what = "a folder, where a model file is wanted" if Path(model).is_dir() else "no such model file"
            raise InputError(f"{model}: {what}; a run writes its models to <out>/models/*.keras")
        if Path(model).suffix != ".keras":
            raise InputError(f"{model}: is no .keras file; a run writes its models to <out>/models/*.keras")
        try:
            content = read_json(cls.path(model))
            content["classes"] = tuple(content["classes"])
            return cls(**content)
        except FileNotFoundError:
            raise InputError(f"{model}: its sidecar {cls.path(model).name} is missing; copy both files") from None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"{cls.path(model)}: not a model's sidecar ({line_of(error)})") from None
