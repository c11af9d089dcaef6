"""How a run ended, for Python callers."""

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
        status: the exit status of `adafv label`: 0 done; 3 more rejects than `max_reject_rate` or, with `audit_fails`,
            less agreement than `min_agreement`; 4 stopped by `max_cost` or `max_hours`.
        run: the run with its counts and costs; `run.table()` is the summary that the command prints.
        sample: the digests of the rows that `sample` drew.
    """

    status: int
    run: RunRecord
    sample: Ledger | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The content of `runs/<run_id>.json`: options without secrets, counts, throughput, cost."""
        return self.run.record()

    @property
    def input(self) -> int:
        """Rows in the input: `skipped`, `labelled`, `rejected` and `left` together."""
        return self.run.input

    @property
    def skipped(self) -> int:
        """Rows that were labelled or rejected before this run."""
        return self.run.skipped

    @property
    def labelled(self) -> int:
        """Rows that this run labelled."""
        return self.run.tally.labelled

    @property
    def rejected(self) -> int:
        """Rows that this run rejected."""
        return self.run.tally.rejected.total()

    @property
    def left(self) -> int:
        """Rows left for another run, if this one was stopped."""
        return self.run.left

    @property
    def labels(self) -> str:
        """The folder or prefix of the label files, of all runs."""
        return f"{self.run.output}/labels"

    @property
    def rejects(self) -> str:
        """The folder or prefix of the reject files, of all runs."""
        return f"{self.run.output}/rejects"

    @property
    def record_file(self) -> str:
        """The path of `record`."""
        return f"{self.run.output}/runs/{self.run.run_id}.json"
