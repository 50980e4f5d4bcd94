"""Which networks Tables I and II are of, which of them judge, and what their steps and files are called."""

from dataclasses import dataclass, replace

from melano_tf.papers.zoome.settings import ZoomeSettings
from melano_tf.runs.judgements import JudgedModel
from melano_tf.runs.predictions import VALIDATION


@dataclass(frozen=True)
class Network:
    """One configuration of Tables I and II."""

    backbone: str
    zoom_se: bool
    metadata: bool
    weights: str = "none"

    @property
    def name(self) -> str:
        """As files call it, for example "torchvision_resnext50-zoom-metadata"."""
        return self.backbone + ("-zoom" if self.zoom_se else "") + ("-metadata" if self.metadata else "")


def proposed(settings: ZoomeSettings) -> Network:
    """ZooME itself."""
    return Network(settings.network.backbone, True, True, settings.network.weights)


def table_1(settings: ZoomeSettings) -> dict[str, Network]:
    """The rows of Table I by their published names; the comparators only where they are wanted."""
    network = settings.network
    comparators = {
        "Maron et al.": Network(network.maron, False, False, network.maron_weights),
        "Kaur et al.": Network(network.kaur, False, False),
        "AlexNet": Network(network.alexnet, False, False, network.alexnet_weights),
    }
    own = {
        "ZooME": proposed(settings),
        "w/o Zoom-SE": Network(network.backbone, False, True, network.weights),
        "w/o Metadata": Network(network.backbone, True, False, network.weights),
    }
    return {**(comparators if settings.comparators else {}), **own}


def table_2(settings: ZoomeSettings) -> dict[str, Network]:
    """The rows of Table II by their published names."""
    network = settings.network
    return {
        "ResNet50": Network(network.maron, False, False, network.maron_weights),
        "ResNet50 + ZoomSE": Network(network.maron, True, False, network.maron_weights),
        "AlexNet": Network(network.alexnet, False, False, network.alexnet_weights),
        "AlexNet + Meta": Network(network.alexnet, False, True, network.alexnet_weights),
    }


def judged_models(settings: ZoomeSettings) -> list[JudgedModel]:
    """Every network of both tables, its folds together: each image judged by the one that did not see its patient."""
    network = settings.network
    networks = {
        "ZooME": proposed(settings),
        "w/o Zoom-SE": Network(network.backbone, False, True),
        "w/o metadata": Network(network.backbone, True, False),
        "Maron et al. (ResNet50)": Network(network.maron, False, False),
        "ResNet50 + Zoom-SE": Network(network.maron, True, False),
        "Kaur et al.": Network(network.kaur, False, False),
        "AlexNet": Network(network.alexnet, False, False),
        "AlexNet + metadata": Network(network.alexnet, False, True),
    }
    folds = range(1, settings.folds.count + 1)
    return [
        JudgedModel(name, tuple(f"{file_stem(which, fold)}.parquet" for fold in folds), (), "images", VALIDATION)
        for name, which in networks.items()
    ]


def step_name(which: Network, fold: int | None) -> str:
    """Name of a training's step; None: trained on all folds, for use, whatever its configuration."""
    return "model/final" if fold is None else f"train/{which.name}/fold-{fold}"


def draw_name(which: Network, fold: int | None) -> str:
    """What a network's random numbers are drawn by: its step's name, whoever the backbone's owner is."""
    plain_name = which.backbone.removeprefix("torchvision_").removeprefix("zoome_")
    return step_name(replace(which, backbone=plain_name), fold)


def judge_name(which: Network, fold: int | None) -> str:
    """Name of the step that judges a training."""
    return f"judge/{file_stem(which, fold)}"


def file_stem(which: Network, fold: int | None) -> str:
    """As a training's files are called."""
    return "zoome" if fold is None else f"{which.name}-fold-{fold}"
