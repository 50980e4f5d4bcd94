"""Which bag model, and what it is made of; read without Keras, for the command line."""

from dataclasses import dataclass
from typing import Literal, get_args

from melano_tf.errors import InputError

BagKind = Literal["bgmp", "bgap", "bgas", "gated", "instance_max", "clam", "clam_multi", "transformer"]


@dataclass(frozen=True, kw_only=True)
class BagNetworkSettings:
    """What bag models are made of, whatever their kind.

    Raises:
        InputError: a value outside its range.
    """

    hidden: tuple[int, ...] = (512,)
    """Widths of the ReLU layers that each instance goes through before the bag is made (CLAM, TransMIL: 512)."""
    dropout: float = 0.25
    """Dropout behind each of them, and in CLAM's attention (CLAM: 0.25)."""
    attention_units: int = 128
    """L of bgas, gated and CLAM (spitzoid: not given; CLAM: 256)."""
    extremes: int = 8
    """CLAM: instances with the most and with the least attention that are clustered (8)."""
    landmarks: int = 64
    """transformer: landmarks of a block (TransMIL's Nystrom attention: 256, means of consecutive instances)."""
    heads: int = 8
    """transformer: attention heads; they divide the last width of `hidden`."""
    blocks: int = 2
    """transformer: blocks of self-attention (TransMIL: 2)."""

    def __post_init__(self) -> None:
        if faults := self._faults():
            raise InputError("bag model: " + "; ".join(faults))

    def _faults(self) -> list[str]:
        faults = []
        if not 0 <= self.dropout < 1:
            faults.append(f"dropout = {self.dropout} must be from 0 to below 1")
        sizes = {name: getattr(self, name) for name in ("attention_units", "extremes", "landmarks", "heads", "blocks")}
        for name, value in {**sizes, **{f"hidden[{i}]": width for i, width in enumerate(self.hidden)}}.items():
            if value < 1:
                faults.append(f"{name} = {value} must be at least 1")
        return faults


@dataclass(frozen=True)
class BagModelSettings(BagNetworkSettings):
    """A bag model.

    Raises:
        InputError: a value outside its range.
    """

    kind: BagKind = "gated"
    """bgmp, bgap, bgas: maximum, mean, attention of the spitzoid paper; gated: gated attention (Ilse et al. 2018);
    instance_max: the maximum over the instances' own logits (mi-Net), which of two classes cannot become less
    positive by one more instance; clam, clam_multi: CLAM with one branch or one a class (Lu et al. 2021); transformer:
    self-attention through landmarks (after TransMIL, Shao et al. 2021)."""

    def _faults(self) -> list[str]:
        faults = super()._faults()
        if self.kind not in get_args(BagKind):
            faults.insert(0, f"kind {self.kind!r} is none of {', '.join(get_args(BagKind))}")
        if self.kind == "transformer" and self.hidden and self.heads > 0 and self.hidden[-1] % self.heads:
            faults.append(f"{self.heads} heads do not divide the last width of hidden, {self.hidden[-1]}")
        return faults
