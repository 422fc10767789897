"""Limits of requests to stores: how long one may take, how often it is repeated, and how many are made at a time.

A request is repeated alone, with the same range of bytes. Only when it has failed `TRIES` times is the error raised to
the task that needed it, and the whole task is tried again (`TASK_RETRIES`, or the argument ``retries`` of a job).
"""

from __future__ import annotations

from typing import Final

# Seconds until a connection stands.
CONNECT_S: Final = 5.0
# Seconds without a single byte, before the answer begins or within it. Stores answer in less than one second, and in a
# few when they are busy.
SILENCE_S: Final = 15.0
# A body that brings fewer bytes than this in so many seconds is given up. A line that is this slow could not be used:
# 4 kB/s for each of its connections.
PROGRESS_S: Final = 15.0
PROGRESS_BYTES: Final = 65_536

# How often a request is sent. If one in twenty fails, all fail for one request in 25 thousand million.
TRIES: Final = 8
# Pauses are drawn between 0 and a bound, so that workers that failed together do not come back together. The bound
# begins with the first of these seconds, doubles with each try, and ends with the second.
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 20.0
# A store may ask for a longer pause (Retry-After), but not for a longer one than this.
LONGEST_RETRY_AFTER_S: Final = 60.0

# A read whose answer has not begun after `LATE_FACTOR` times what nine of ten reads take, and at least `LATE_S`, is
# sent a second time, and the first answer is taken. Of the last `PACE_READS` reads it is known how long they took; with
# fewer than `PACE_LEAST_READS` of them, a read is late after `LATE_AT_FIRST_S`. Of the reads, one in `HEDGE_EVERY` may
# be sent twice, `HEDGES_AT_ONCE` of them at any moment, so that a store that is slow for all is not asked twice.
LATE_FACTOR: Final = 3.0
LATE_S: Final = 0.2
LATE_AT_FIRST_S: Final = 1.0
PACE_READS: Final = 100
PACE_LEAST_READS: Final = 20
HEDGE_EVERY: Final = 10
HEDGES_AT_ONCE: Final = 4

# Requests at a time in one process, all its threads together, unless Dask's configuration says otherwise.
MAX_REQUESTS: Final = 64

# Seconds before something that should be there, and was not found, is looked up again.
LOOK_AGAIN_S: Final = 0.1
# How often a task is tried again outside of a job, and the seconds before it is, which double.
TASK_RETRIES: Final = 2
TASK_PAUSE_S: Final = 0.1

# Of what is tried again, so many messages at once are warnings, and then one in so many seconds; the others are only
# counted (and messages of the level DEBUG).
LOG_AT_ONCE: Final = 20
LOG_EVERY_S: Final = 10.0


def max_requests() -> int:
    """Return how many requests to stores this process may have in flight, from Dask's configuration.

    The key is ``labelsieve.max-requests``; on a worker it is set in a file in ``~/.config/dask``, or by the environment
    variable ``DASK_LABELSIEVE__MAX_REQUESTS``.
    """
    from dask import config  # here, as Dask takes longer to import than a saved result to open

    chosen = config.get("labelsieve.max-requests", MAX_REQUESTS)
    if isinstance(chosen, bool) or not isinstance(chosen, int) or chosen < 1:
        from labelsieve.errors import InvalidInputError

        raise InvalidInputError(
            f"labelsieve.max-requests in Dask's configuration must be a whole number from 1 on, not {chosen!r}"
        )
    return chosen
