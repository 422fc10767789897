"""Second tries of the last partitions of a map on a cluster, where one worker is much slower than the others.

While many partitions are left, a slow worker simply takes fewer of them. At the end the others wait for the one that it
has begun. Then that partition is also given to another worker, by a task with a key of its own, and the first result
that is there is used. A task can run twice at once: it gives the same bits, and a record in a workdir is committed as a
whole.

The graph of the map stays as it is, a blockwise layer and a tree reduction, and where nothing is slow no task is added.
Dask cannot replace a task of a graph that runs. So the client holds futures of the levels of the tree too. When a
second try was faster, it submits again the few tasks of the tree between that partition and the root, and releases the
futures that wait for the first try. Dask then cancels that, and it stops at its next strip of rows.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, Final

from dask.core import flatten

from labelsieve.execution.executor import Stage, blocks_of
from labelsieve.execution.progress import Progress
from labelsieve.storage.remote import RETRY_LOG

# Seconds between two looks at the tasks that run.
_LOOK_SECONDS: Final = 0.5
_LOOK_SECONDS_A_THREAD: Final = 0.0005
# The last tasks of a worker are slow if, after the first threads have become idle, it finishes none of them in so many
# times the seconds that are usual for as many rows, and in at least so many seconds.
_SLOW_FACTOR: Final = 1.5
_LEAST_SECONDS: Final = 1


class SecondTries:
    """Waits for a stage that runs on a cluster, and makes second tries of its last slow tasks.

    Parameters
    ----------
    client : distributed.Client
        Client of the cluster.
    stage : Stage
        What is computed.
    levels : list of list of future
        The blocks of each of ``stage.levels[1:]``; those of `stage.mapped` if nothing is reduced.
    progress : Progress
        Knows which tasks are finished, and how long they took.
    retries : int
        Number of times that Dask runs a failed task again.
    describe : callable
        Names the rows of a task by its key.
    """

    def __init__(
        self,
        client: Any,
        stage: Stage,
        levels: list[list[Any]],
        progress: Progress,
        retries: int,
        describe: Callable[[Any], str],
    ) -> None:
        self._client, self._stage, self._progress = client, stage, progress
        self._retries, self._describe = retries, describe
        self._levels = levels
        self._keys = list(flatten((stage.levels[0] if stage.levels else stage.mapped).__dask_keys__()))
        self._index = {key: index for index, key in enumerate(self._keys)}
        self._n_threads, self._next_look = sum(client.nthreads().values()), 0.0
        # For each worker, the numbers of the chunks that it has, and since when none of them was finished.
        self._assigned: dict[str, tuple[set[int], float]] = {}
        # By the number of the chunk, the future of a second try.
        self._running: dict[int, Any] = {}
        self._tried: set[int] = set()
        self._winners: dict[int, Any] = {}

    @property
    def output(self) -> list[Any]:
        """The root of the tree alone, or all blocks if there is no tree."""
        return self._levels[-1]

    @property
    def futures(self) -> list[Any]:
        """All futures that are held."""
        return list(itertools.chain(*self._levels, self._running.values()))

    def wait(self) -> None:
        """Wait until all is computed, and raise the error of a task that failed in all its tries."""
        for index in range(len(self.output)):
            while not self._is_done(self.output[index]):
                self._look()
        for second in self._running.values():
            second.release()

    def _is_done(self, future: Any) -> bool:
        """Return whether a future is done, after a while. An error counts only if no second try is left."""
        try:
            error = future.exception(timeout=_LOOK_SECONDS)
        except TimeoutError:
            return False
        if error is None:
            return True
        if all(second.status in ("error", "cancelled", "lost") for second in self._running.values()):
            future.result()
        time.sleep(_LOOK_SECONDS)
        return False

    def _look(self) -> None:
        """Use second tries that were faster, and start others."""
        for index, second in list(self._running.items()):
            if self._keys[index] in self._progress.finished:
                self._running.pop(index).release()
            elif second.status == "finished":
                self._winners[index] = self._running.pop(index)
                self._replace(index)
        # Before that all threads are busy. Workers may have come or gone since.
        now = time.monotonic()
        if len(self._keys) - len(self._progress.finished) < self._n_threads and now >= self._next_look:
            # The scheduler's answer takes it some 20 microseconds for each thread.
            self._next_look = now + self._n_threads * _LOOK_SECONDS_A_THREAD
            self._start_second_tries()

    def _replace(self, index: int) -> None:
        """Put the result of a second try in the place of the first, and combine it with the others again."""
        stage = self._stage
        if not stage.levels:
            replaced = [self.output[index]]
            self.output[index] = self._winners[index]
        else:
            replaced, some = [], self._summands(index)
            for level in self._levels:
                index //= stage.split_every
                replaced.append(level[index])
                level[index] = self._client.submit(stage.combine, some, pure=False)
                some = level[_group(index, stage.split_every)]
        for future in replaced:
            future.release()

    def _summands(self, index: int) -> list[Any]:
        """Return futures of the results that one task of the tree combines, those of second tries among them."""
        from distributed import futures_of

        stage, group = self._stage, _group(index, self._stage.split_every)
        # The first tries wait to be combined. A task that the scheduler has already does not run again.
        first_tries = dict(enumerate(stage.levels[0].to_delayed().flat[group], group.start))
        kept = [first for number, first in first_tries.items() if number not in self._winners]
        found = {future.key: future for future in futures_of(self._client.persist(kept, retries=self._retries))}
        return [self._winners.get(number) or found[first.key] for number, first in first_tries.items()]

    def _start_second_tries(self) -> None:
        """Start second tries of slow tasks on idle threads of other workers."""
        again, n_rows, usual = self._stage.again, self._stage.n_rows, self._progress.seconds_per_row()
        threads, processing = self._client.nthreads(), self._client.processing()
        self._n_threads = sum(threads.values())
        n_idle = {worker: max(0, n - len(processing.get(worker, ()))) for worker, n in threads.items()}
        if again is None or n_rows is None or usual is None or not any(n_idle.values()):
            self._assigned.clear()
            return
        now, slow = time.monotonic(), dict[int, str]()
        for worker, keys in processing.items():
            assigned = {self._index[key] for key in keys if key in self._index}
            before, since = self._assigned.get(worker, (set(), now))
            # Some of these tasks are queued. While others finish on this worker, they will have their turn.
            since = since if before <= assigned else now
            self._assigned[worker] = assigned, since
            usual_s = usual * max(map(n_rows, assigned), default=0)
            if assigned and now - since > max(_LEAST_SECONDS, _SLOW_FACTOR * usual_s):
                slow |= dict.fromkeys(assigned, worker)
        others = [worker for worker in threads if worker not in slow.values()]
        new = [index for index in slow if index not in self._tried]
        for index in new[: sum(n_idle[worker] for worker in others)]:
            RETRY_LOG.add(
                f"{self._describe(self._keys[index])} is still not done on {slow[index]}, where it should take "
                f"{usual * n_rows(index):.1f} s",
                condition=" on another worker",
            )
            [self._running[index]] = blocks_of(
                # Other workers may be gone when the result is needed, or lost.
                self._client.persist(again(index), workers=others, allow_other_workers=True, retries=self._retries)
            )
            self._tried.add(index)


def _group(index: int, width: int) -> slice:
    """Return which numbers are combined with `index`."""
    start = index - index % width
    return slice(start, start + width)
