"""How a recipe is run: the settings of every recipe that are no part of a method."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Self

from melano_tf.environment import cores
from melano_tf.errors import InputError
from melano_tf.training.tensorflow_runtime import Precision

MOST_BY_ITSELF = 4
"""Of a demo's small networks, at most so many at a time: each takes a process with TensorFlow, 0.7 GB."""


@dataclass(frozen=True)
class Running:
    """What every recipe's settings begin with."""

    seed: int = 0
    """All randomness comes from this one number."""
    plan: bool = False
    """Print what is finished and what would be done, and why, and do nothing."""
    yes: bool = False
    """Begin although this machine has no GPU and the run would take more than a day."""
    workers: int = 0
    """Threads and processes that draw, tile, decode and hash, shared out among --jobs; 0: one a core."""
    threads: int = 0
    """Threads of TensorFlow in each training; 0: one a core, shared out among --jobs. Results are bit-identical only
    for the same number."""
    mirror: bool = False
    """Spread each training over all GPUs, with TF_CONFIG over those of several hosts; BatchNorm then takes its
    statistics over the whole batch. Not given: each training runs on one device."""
    precision: Precision = "float32"
    """What networks compute in: float32, bfloat16, or float16 (the loss is then scaled). Weights, losses and softmaxes
    stay float32. Not in the papers."""
    micro_batch: int = 0
    """Samples whose activations are held at a time: a larger batch is done in such parts, whose gradients are added up.
    BatchNorm takes its statistics over a part, dropout draws for it, mixup blends within it. 0: the whole batch at
    once."""
    deterministic: bool = True
    """Equal commands give equal bits. With --no-deterministic a training that was interrupted ends with other bits than
    one that was not, and operations run that a GPU has no deterministic kernel for."""
    jobs: int | None = None
    """Trainings side by side, each in a process of its own, before them slides and images; 0: one a core. More than one
    needs the extra "cluster". Not given: one; with a preset of small networks (a demo) one a core, up to four, where
    that extra is installed."""
    gpus: tuple[int, ...] = ()
    """Numbers of GPUs, for example 0 1 2 3: one training at a time on each of them. Needs the extra "cluster"."""
    scheduler: str = ""
    """Address of a Dask cluster that is there already, tcp://host:port, whose workers see the run's folder under the
    same path: trainings, slides and images go there. Needs the extra "cluster"."""

    def check_running(self) -> None:
        """Whether these go together, and what judges in the end is in its range: known before anything is trained.

        Raises:
            InputError: they do not, or it is not.
        """
        evaluation = getattr(self, "evaluation", None)  # every recipe has one
        for name in ("repeats", "bins"):
            if (count := getattr(evaluation, name, 1)) < 1:
                raise InputError(f"--evaluation.{name} {count}: at least 1")
        if not 0 < (level := getattr(evaluation, "level", 0.95)) < 1:
            raise InputError(f"--evaluation.level {level:g}: between 0 and 1, for example 0.95")
        if self.micro_batch < 0 or (self.micro_batch and self.mirror):
            raise InputError(f"--micro-batch {self.micro_batch}: give how many samples, and no --mirror with it")
        if self.jobs is not None and self.jobs < 0:
            raise InputError(f"--jobs {self.jobs}: give how many, or 0 for one a core")
        if len(set(self.gpus)) != len(self.gpus) or any(number < 0 for number in self.gpus):
            raise InputError(f"--gpus {' '.join(map(str, self.gpus))}: give each GPU's number once")
        several = [name for name, on in (("--jobs", self.jobs not in (None, 1)), ("--gpus", self.gpus)) if on]
        several += ["--scheduler"] * bool(self.scheduler)
        if len(several) > 1:
            raise InputError(f"{' and '.join(several)}: give one of them")
        if several and self.mirror:
            raise InputError(
                f"{several[0]} is for trainings side by side, --mirror spreads one over all GPUs: give one"
            )

    @property
    def spread_out(self) -> bool:
        """Whether trainings are handed to other processes."""
        return self.jobs not in (None, 1) or bool(self.gpus) or bool(self.scheduler)

    def side_by_side(self, say: Callable[[str], None]) -> Self:
        """These, with as many trainings side by side as a preset of small networks takes of itself.

        Args:
            say: is told where the extra that this needs is missing.
        """
        if self.jobs is not None or self.gpus or self.scheduler or self.mirror:
            return self
        if find_spec("distributed") is None:
            say('one training at a time; with pip install ".[cluster]" this preset does one a core')
            return self
        return replace(self, jobs=min(cores(), MOST_BY_ITSELF))

    def processes(self) -> int:
        """How many trainings go on at a time on this machine."""
        return len(self.gpus) or (1 if self.jobs is None else self.jobs or cores())

    def threads_each(self) -> int:
        """Threads of TensorFlow in each process; 0: one a core."""
        if self.threads or not self.spread_out or self.scheduler:
            return self.threads
        return max(1, cores() // self.processes())
