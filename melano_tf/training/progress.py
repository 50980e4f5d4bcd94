"""Progress bars of trainings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def bar_over_epochs(name: str, epochs: int, steps_per_epoch: int) -> Iterator[Callable[[int, float, float], None]]:
    """A bar over all steps of one training; yields what the loop calls with (steps done, last loss, the share of
    time in which it waited for data).

    A resumed training starts its bar where it stopped.
    """
    with tqdm(total=epochs * steps_per_epoch, desc=name, unit="step", leave=False, mininterval=1.0) as bar:

        def show(done: int, loss: float, waiting: float) -> None:
            epoch = f"{min(done // max(steps_per_epoch, 1) + 1, epochs)}/{epochs}"
            bar.set_postfix(epoch=epoch, loss=f"{loss:.4f}", waiting=f"{waiting:.0%}", refresh=False)
            bar.update(done - bar.n)

        yield show
