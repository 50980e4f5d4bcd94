"""The files of the networks' initial weights: looked at before the first step, and known by their content."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from melano_tf.home_folders import written_path
from melano_tf.models.backbone_registry import check_backbone, weights_at_hand, weights_file
from melano_tf.papers.plan import Backbone, Step
from melano_tf.runs.atomic_files import file_sha256
from melano_tf.runs.settings_digest import flat, plain


def weights_of(steps: Iterable[Step]) -> dict[Backbone, str | None]:
    """The content of the initial weights of every network that a step builds, found now, before the first step begins.

    Raises:
        InputError: there is no such network, it does not take what it is given, or a file cannot be had.
    """
    return {network: weights_key(*network) for network in check_networks(steps)}


def local_weights(steps: Iterable[Step]) -> dict[Backbone, str | None]:
    """As `weights_of`, with nothing fetched: without the networks whose ImageNet weights are not on this machine."""
    return {network: weights_key(*network) for network in check_networks(steps) if weights_at_hand(*network[:2])}


def check_networks(steps: Iterable[Step]) -> list[Backbone]:
    """The networks that steps build, each once; nothing is fetched.

    Raises:
        InputError: as `models.backbone_registry.check_backbone`.
    """
    networks = list(dict.fromkeys(network for step in steps for network in step.weights))
    for network in networks:  # all of them before the first is fetched
        check_backbone(*network)
    return networks


def weights_key(backbone: str, weights: str, input_px: int | None = None) -> str | None:
    """SHA-256 of a network's initial weights file, for the key of what is trained from it; None without a file.

    A file is read once for all the trainings that ask for it.

    Args:
        backbone, weights, input_px: as for `models.backbone_registry.check_backbone`.

    Raises:
        InputError: there is no such network or file, the network takes no images of this size or has no such weights,
            or the file cannot be fetched.
    """
    check_backbone(backbone, weights, input_px)
    file = weights_file(backbone, weights)
    if file is None:
        return None
    facts = file.stat()
    return _content(file.resolve(), facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _content(file: Path, size: int, modified_ns: int) -> str:
    """The checksum of a file in this state."""
    return file_sha256(file)


def given_weights(settings: Any) -> list[str]:
    """The content of every weights file that the settings name, whatever part of the run is asked for."""
    found = flat(plain(settings)).items()
    named = [value for name, value in found if name.endswith("weights") and isinstance(value, str)]
    files = [written_path(value) for value in named if value not in ("none", "imagenet")]
    return [_content(f.resolve(), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
