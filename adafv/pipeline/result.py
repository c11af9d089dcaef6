"""How a run ended, for those who called it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adafv.pipeline.outputs.ledger import Ledger
from adafv.pipeline.record.run_record import RunRecord

DONE, TOO_MANY_REJECTS, STOPPED = 0, 3, 4


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended.

    Attributes:
        status: 0 done; 3 more rejects than `max_reject_rate`, or, with `audit_fails`, less agreement than
            `min_agreement`; 4 stopped by `max_cost` or `max_hours`. As the exit
            status of `adafv label`.
        run: the run itself, whose counts and costs have names; `run.table()` is the summary that the command prints.
        sample: the digests of the rows that `sample` drew.
    """

    status: int
    run: RunRecord
    sample: Ledger | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What is in `runs/<run_id>.json`: options without secrets, counts, throughput, cost."""
        return self.run.record()

    @property
    def input(self) -> int:
        """Rows that the input has: `skipped`, `labelled`, `rejected` and `left` together."""
        return self.run.input

    @property
    def skipped(self) -> int:
        """Of these, rows that were labelled or rejected before the run."""
        return self.run.skipped

    @property
    def labelled(self) -> int:
        """Rows that the run has labelled."""
        return self.run.tally.labelled

    @property
    def rejected(self) -> int:
        """Rows that the run has rejected, each with its reason."""
        return self.run.tally.rejected.total()

    @property
    def left(self) -> int:
        """Rows that another run has to label, where this one was stopped."""
        return self.run.left

    @property
    def labels(self) -> str:
        """The folder or prefix of the Parquet files with the labels, of all runs."""
        return f"{self.run.output}/labels"

    @property
    def rejects(self) -> str:
        """Likewise, with the rejected rows."""
        return f"{self.run.output}/rejects"

    @property
    def record_file(self) -> str:
        """Where `record` is written."""
        return f"{self.run.output}/runs/{self.run.run_id}.json"
