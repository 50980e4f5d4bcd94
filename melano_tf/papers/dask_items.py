"""Slides and blocks of images, handed to Dask one by one: what `pipelines.processes` does on one machine.

Each process has one of them at a time. One that ends its process is begun once more, elsewhere or in the process that
takes the dead one's place; when that one dies too, it is given up, and the others go on.
"""

import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import distributed

from melano_tf.papers.dask_cluster import wait_for_one
from melano_tf.pipelines.processes import Engine, WorkerDied

COUNTS = "melano_tf"  # among the scheduler's metadata: how often an item was begun and not ended
ATTEMPTS = 2


def far_engine(client: Any, run: str, threads: int) -> Engine:
    """The processes of a cluster.

    Args:
        client: of the cluster.
        run: the name under which its processes hold the run's `dask_jobs.Hands`.
        threads: of each process.
    """
    return Engine(lambda function, items: _spread(client, run, function, items), lambda items: [threads] * items)


def _spread(client: Any, run: str, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    waiting, open_, killed = deque(range(len(items))), dict[Any, int](), [0] * len(items)
    marks = [uuid.uuid4().hex for _ in items]
    name = getattr(function, "func", function).__name__.strip("_")  # as Dask's dashboard shows it
    try:
        while waiting or open_:
            # No more than one a process: who waits behind another one could be blamed for its death.
            while waiting and len(open_) < max(1, len(client.nthreads())):
                index = waiting.popleft()
                key = f"{name}-{marks[index]}-{killed[index]}"
                open_[client.submit(_do, run, function, items[index], marks[index], key=key, pure=False)] = index
            wait_for_one(client, list(open_))
            for future in [one for one in open_ if one.done()]:
                index = open_.pop(future)
                try:
                    result = future.result()
                except distributed.KilledWorker:  # by Dask's own count, which a user sets
                    killed[index] += 1
                    if killed[index] < ATTEMPTS:
                        waiting.appendleft(index)
                        continue
                    result = WorkerDied()
                future.release()  # or it would be done again where the process that holds the result dies
                yield index, result
    finally:
        client.cancel(list(open_))


def _do(run: str, function: Callable[[Any], Any], item: Any, mark: str) -> Any:
    """In a process of the cluster: work on an item, unless it has ended two processes already."""
    hands: Any = distributed.get_worker().plugins[run]
    with hands.alone():
        client = distributed.get_client()
        begun = client.get_metadata([COUNTS, mark], 0)
        if begun >= ATTEMPTS:
            return WorkerDied()
        client.set_metadata([COUNTS, mark], begun + 1)
        result = function(item)
        client.set_metadata([COUNTS, mark], begun)
        return result
