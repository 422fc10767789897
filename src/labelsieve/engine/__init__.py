"""The one place that lays the flow on Dask.

Covers: opening both inputs on one grid (`inputs`), the maps and reductions of a run (`run`), and who runs them
(`schedule`).
Does not cover: what a task does (`tasks`), the fork pool (`forkpool`).

A run is three maps over partitions with a K-sized reduction after each: *summarise* reads the rows, *count* holds their
summaries against the thresholds, *select* returns the rows up to the cut. Summaries stay where they were made. Whatever
scheduler Dask is set to does the work: threads, processes, or the active client.
"""

from labelsieve.engine.inputs import Inputs, open_inputs
from labelsieve.engine.run import Run, each_partition

__all__ = ["Inputs", "Run", "each_partition", "open_inputs"]
