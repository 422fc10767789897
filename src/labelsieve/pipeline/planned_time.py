"""Forecasts the time of a planned run, from rates that were given or are measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import dask

from labelsieve.confident_learning.filters import Filter
from labelsieve.errors import InvalidInputError
from labelsieve.execution.cluster import DescribedExecutor
from labelsieve.execution.executor import Executor, LocalExecutor
from labelsieve.pipeline.forecast import Forecast, Workload, forecast, typical_rates, workers_within
from labelsieve.pipeline.forecast_settings import ForecastSettings
from labelsieve.pipeline.inputs import Inputs
from labelsieve.pipeline.measurement import measure
from labelsieve.sources.logits import LogitsSource


def forecast_run(
    work: Workload,
    inputs: Inputs,
    rule: Filter,
    executor: Executor,
    wanted: ForecastSettings,
    opening_s: float,
    work_on: Callable[[Executor], Workload | None],
) -> Forecast:
    """Forecast the time of a run.

    Parameters
    ----------
    work : Workload
        What the run reads.
    inputs : Inputs
        Where it reads.
    rule : Filter
        The filter of the run.
    executor : Executor
        What would run the tasks.
    wanted : ForecastSettings
        The rates, or that they are to be measured, and the time that is wanted.
    opening_s : float
        Seconds that opening the inputs took.
    work_on : callable
        Returns what a run on another executor would read; None if it would not fit in memory.

    Raises
    ------
    InvalidInputError
        If a number of workers is asked for without a cluster; if a Dask array is to be measured.
    """
    if wanted.within_s is not None and not executor.is_cluster:
        raise InvalidInputError("within asks for a number of workers: say of which (--workers or --scheduler, client=)")
    measured_bytes = 0
    if wanted.measure:
        with _measuring_executor(executor) as measuring:
            rates, measured_bytes = measure(inputs, rule, measuring)
        rates = replace(rates, startup_s=rates.startup_s + opening_s)
    else:
        source = inputs.pred_probs_source
        is_encoded = source is not None and source.is_encoded
        # Row summaries that exist already have two values, whatever the number of classes.
        n_values = min(inputs.n_classes, inputs.row_bytes // inputs.dtype.itemsize)
        from_logits = isinstance(source, LogitsSource)
        rates = typical_rates(n_values, inputs.dtype.itemsize, is_encoded=is_encoded, from_logits=from_logits)
    if wanted.bytes_per_s is not None:
        rates = replace(rates, worker_rate=wanted.bytes_per_s, thread_rate=math.inf, warm_thread_rate=math.inf)
    rates = replace(rates, latency_s=wanted.latency_s or 0.0)
    found = replace(forecast(work, rates), measured_bytes=measured_bytes)
    if wanted.within_s is None:
        return found

    def forecast_of(n_workers: int) -> Forecast | None:
        other = work_on(DescribedExecutor.like(executor, n_workers))
        return None if other is None else forecast(other, rates)

    n_workers, why_not = workers_within(wanted.within_s, forecast_of)
    return replace(found, within_s=wanted.within_s, n_workers_needed=n_workers, why_not=why_not)


@contextmanager
def _measuring_executor(executor: Executor) -> Iterator[Executor]:
    """Yield what measures: the executor, or the threads of this process in place of a worker that is only described."""
    if not isinstance(executor, DescribedExecutor):
        yield executor
        return
    with dask.config.set(num_workers=executor.n_threads, scheduler="threads"):
        yield LocalExecutor()
