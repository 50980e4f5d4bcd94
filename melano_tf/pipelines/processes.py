"""Work on many items in processes of their own, where one item that kills its process costs only itself."""

import contextlib
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

from melano_tf.child_processes import ended_with, leave_with_parent, without_script

Item = TypeVar("Item")
Result = TypeVar("Result")
DIED = "the process that read it was killed twice (out of memory, or a crash in the slide library)"
# Imported once by the process from which the others are forked: it has no threads, and none of this one's state.
PRELOADED = ("melano_tf.pipelines.slide_cutting", "melano_tf.pipelines.slide_apart")


@dataclass(frozen=True)
class WorkerDied:
    """Stands for the result of an item that cost two processes their lives while it worked alone."""


@dataclass(frozen=True)
class Engine:
    """What works on many items side by side.

    Attributes:
        spread: (picklable function, items) -> (index, its result or `WorkerDied`) of each item as it is finished, in no
            fixed order; what the function raises is raised here and ends the work.
        threads: number of items -> threads that each of them may take, in the order in which they are begun.
    """

    spread: Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[tuple[int, Any]]]
    threads: Callable[[int], list[int]]


def on_this_machine(workers: int) -> Engine:
    """So many processes of this machine, as `spread` has them; the last items share all workers as their threads."""
    return Engine(
        lambda function, items: spread(function, items, workers),
        lambda items: [max(1, workers // (items - index)) for index in range(items)],
    )


def in_this_process(threads: int) -> Engine:
    """One item after the other, each with so many threads."""
    return Engine(lambda function, items: spread(function, items, 0), lambda items: [threads] * items)


def spread(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[int, Result | WorkerDied]]:
    """Yield (index, function(item)) for each item as it is finished, in no fixed order.

    Processes are started once (no state of this process is copied into them) and kept until the last item. When one
    dies (killed, out of memory, a crash in a C library), the items that were at work are repeated one at a time in a
    process of their own, twice at most; then they yield `WorkerDied`. Where this process is interrupted, they are
    ended in the middle of their items: whole is what was written under its name.

    Args:
        function: a picklable function; what it raises is raised here and ends the work.
        items: its arguments.
        workers: number of processes; 0 means this one, as does work within a process that may have no others.
    """
    workers = min(workers, len(items))
    if workers < 1 or multiprocessing.current_process().daemon:
        for index, item in enumerate(items):
            yield index, function(item)
        return
    waiting = deque(range(len(items)))
    while waiting:
        suspects: list[int] = []
        yield from _until_broken(function, items, workers, waiting, suspects)
        for index in suspects:
            yield index, _alone(function, items[index])


def _until_broken(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, waiting: deque[int], suspects: list[int]
) -> Iterator[tuple[int, Result | WorkerDied]]:
    """Work through `waiting`; when a process dies, put what was at work into `suspects` and stop."""
    running: dict[Future[Result], int] = {}
    with ended_with(_pool(workers)) as pool:
        try:
            while (waiting or running) and not suspects:
                # No more than one item a process: only those can have killed it.
                while waiting and len(running) < workers:
                    with without_script():
                        future = pool.submit(function, items[waiting[0]])
                    running[future] = waiting[0]
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    if isinstance(future.exception(), BrokenProcessPool):
                        suspects += [running.pop(future)]
                    else:
                        yield running.pop(future), future.result()
        except BrokenProcessPool:  # a process died before it was given anything
            pass
    # A pool that broke fails all that was running, also what `wait` had not yet reported.
    for future, index in running.items():
        if future.cancelled() or isinstance(future.exception(), BrokenProcessPool):
            suspects.append(index)
        else:
            yield index, future.result()


def _alone(function: Callable[[Item], Result], item: Item) -> Result | WorkerDied:
    for _ in range(2):
        with ended_with(_pool(1)) as pool, contextlib.suppress(BrokenProcessPool):
            with without_script():
                future = pool.submit(function, item)
            return future.result()
    return WorkerDied()


def context() -> Any:
    """How processes are begun: forked from one that holds what slides need, and nothing of this program's state."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(list(PRELOADED))
    return found


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=context(), initializer=leave_with_parent)
