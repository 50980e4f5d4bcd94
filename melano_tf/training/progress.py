"""Progress bars of trainings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def bar_over_epochs(name: str, epochs: int, steps_per_epoch: int) -> Iterator[Callable[[int, float], None]]:
    """A bar over all steps of one training; yields what the loop calls with (steps done, last loss).

    A resumed training starts its bar where it stopped.
    """
    with tqdm(total=epochs * steps_per_epoch, desc=name, unit="step", leave=False, mininterval=1.0) as bar:

        def show(done: int, loss: float) -> None:
            bar.set_postfix(
                epoch=f"{min(done // max(steps_per_epoch, 1) + 1, epochs)}/{epochs}", loss=f"{loss:.4f}", refresh=False
            )
            bar.update(done - bar.n)

        yield show
