"""A pretrained network cut in two: a frozen trunk, whose features can be kept on disk, and a rest that is trained.

Both halves are made of the whole network's own layers, so that what is trained in the rest is trained in the whole:
the whole is what is saved, and what answers.
"""

from dataclasses import dataclass

import keras

from melano_tf.errors import InputError


@dataclass(frozen=True)
class Halves:
    """A network and its two halves, which share its layers.

    Attributes:
        whole: as given.
        trunk: from the network's input to the cut; none of its layers is trained.
        rest: from the cut, and from the inputs behind the first one, to the network's outputs.
    """

    whole: keras.Model
    trunk: keras.Model
    rest: keras.Model


def split_at(model: keras.Model, layer: str) -> Halves:
    """Cut a network behind a layer that its first input alone leads to, and freeze what lies before it.

    A frozen batch normalisation uses its stored statistics, also within a training step of the whole.

    Args:
        model: a functional model; its first input is the picture.
        layer: the last layer of the trunk.

    Raises:
        InputError: there is no such layer, nothing lies behind it, or another path leads around it (a shortcut).
    """
    names = [each.name for each in model.layers]
    if layer not in names:
        close = [name for name in names if name.split("_")[:2] == layer.split("_")[:2]]
        raise InputError(f"{model.name} has no layer {layer!r}; there are {', '.join(close or names[:40])}")
    at = model.get_layer(layer).output
    if any(at is output for output in model.outputs):
        raise InputError(f"nothing lies behind {layer} in {model.name}: there would be nothing to train")
    picture, *others = model.inputs
    try:
        trunk = keras.Model(picture, at, name=f"{model.name}_trunk")
        rest = keras.Model([at, *others] if others else at, model.outputs[0], name=f"{model.name}_rest")
    except ValueError:
        raise InputError(f"{model.name} cannot be cut behind {layer}: another path leads around it") from None
    before = {id(each) for each in trunk.layers}
    if any(id(each) in before for each in rest.layers):
        raise InputError(f"{model.name} cannot be cut behind {layer}: another path leads around it")
    for each in trunk.layers:
        each.trainable = False
    return Halves(model, trunk, rest)
