"""What checks before a run find: findings, and facts about processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from labelsieve.execution.process_facts import ProcessFacts

Status = Literal["problem", "warning", "ok"]


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Parameters
    ----------
    check : str
        Name of the check.
    subject : str
        ``client``, ``scheduler``, ``workers`` for all of them, or the address of a worker.
    status : {"problem", "warning", "ok"}
        How bad it is.
    message, advice : str
        What was found, and what to do; there is no advice if all is well.
    """

    check: str
    subject: str
    status: Status
    message: str
    advice: str = ""


@dataclass
class Process:
    """What is known of a process; None where nothing is.

    Parameters
    ----------
    name : str
        ``client``, ``scheduler`` or the address of a worker.
    facts : ProcessFacts, optional
        What it says of itself.
    n_threads, memory_limit : int, optional
        Threads of a worker, and its memory limit in bytes; 0 for none.
    clock_difference_s, round_trip_s : float, optional
        How far its clock is ahead of the client's, and how long it took to ask for it.
    read_bytes : int, optional
        Bytes of `pred_probs` that it read as a test.
    read_s : float, optional
        Seconds that this took.
    """

    name: str
    facts: ProcessFacts | None = None
    n_threads: int | None = None
    memory_limit: int | None = None
    clock_difference_s: float | None = None
    round_trip_s: float | None = None
    read_bytes: int | None = None
    read_s: float | None = None

    @property
    def read_rate(self) -> float | None:
        """Bytes read per second."""
        return None if self.read_bytes is None or not self.read_s else self.read_bytes / self.read_s


@dataclass
class Diagnosis:
    """What `diagnose` has found.

    Parameters
    ----------
    findings : list of Finding
        In the order of the checks.
    processes : dict of str to Process
        By their names.
    """

    findings: list[Finding] = field(default_factory=list)
    processes: dict[str, Process] = field(default_factory=dict)

    def count(self, status: Status) -> int:
        """Return the number of findings with a status."""
        return sum(finding.status == status for finding in self.findings)
