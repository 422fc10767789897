"""The one place that lays the flow on Dask.

Covers: both inputs on one grid (`inputs`, `opening`), what tells them from others (`identities`, `spot_check`), what a
run will take (`plan`), its maps and reductions (`run`, `repairs`), the rounds that choose rows (`selecting`), the
graphs of all of these (`graphs`), what tasks do around their work (`readers`), and who runs them (`choice`,
`executors`, `on_cluster`, `clusters`).
Does not cover: the work of a task (`tasks`, `rereads`, `margins`, `runs`), the fork pool (`forkpool`).

A run is three maps with a K-sized reduction after the first two: *summarise* reads the rows, *count* holds their
summaries against the thresholds, *select* returns or writes the rows that are chosen. Where it takes the thresholds and
whole rows, *reread* comes between the first two, and *margins* before the last. Summaries stay where they were made, or
are committed to a workdir. Whatever scheduler Dask is set to does the work: threads, processes, or the active client.
"""

from labelsieve.engine.choice import active_client, choose_executor
from labelsieve.engine.executors import Executor, LostDataError
from labelsieve.engine.graphs import tried
from labelsieve.engine.identities import check_versions, fingerprint, note_versions, part_identities
from labelsieve.engine.inputs import RETRIES, Inputs, each_partition
from labelsieve.engine.opening import open_inputs, open_pair
from labelsieve.engine.plan import Plan, make_plan
from labelsieve.engine.run import Run
from labelsieve.engine.selecting import Selected
from labelsieve.engine.spot_check import check_finished

__all__ = [
    "RETRIES",
    "Executor",
    "Inputs",
    "LostDataError",
    "Plan",
    "Run",
    "Selected",
    "active_client",
    "check_finished",
    "check_versions",
    "choose_executor",
    "each_partition",
    "fingerprint",
    "make_plan",
    "note_versions",
    "open_inputs",
    "open_pair",
    "part_identities",
    "tried",
]
