"""All rows together; if that fails, one by one, to find the row to blame.

A batch that dies says little: the machine may have killed the process. One by one, in a new process, the innocent rows
come through and the bad row kills again. It gets a second chance alone, since that death may have been an accident,
too; then it fails. So a row is given up after three deaths, two of them its own.

Bisecting would cost a death, and so a reload of the model, for each half with the bad row: eight deaths for one among
32 rows instead of three. For a row that hangs, each death is a whole time-out.

An exception is not a death: the process lives on, and a row that raised alone would raise again.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from adafv.pipeline.isolation.process import Died, Isolated, Raised

CHANCES = 2  # deaths that a row may cause when it is alone


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row failed.

    Attributes:
        type: the class of the exception that it raised; None if it killed or hung its process.
        message: what happened. Not yet redacted.
    """

    type: str | None
    message: str


def run_isolated(process: Isolated, table: pa.Table) -> tuple[list[pa.Table], dict[int, Failure]]:
    """Give all rows of `table` to `process`.

    Returns:
        The answers, which together cover the rows that came through; and failures by row number.

    Raises:
        StartError: no process can be started; no row is to blame.
    """
    try:
        return [process.ask(table)], {}
    except Died:
        pass
    except Raised as raised:
        if table.num_rows == 1:
            return [], {0: Failure(raised.type, str(raised))}
    answers: list[pa.Table] = []
    failures: dict[int, Failure] = {}
    for i in range(table.num_rows):
        answer = _alone(process, table.slice(i, 1))
        if isinstance(answer, Failure):
            failures[i] = answer
        else:
            answers.append(answer)
    return answers, failures


def _alone(process: Isolated, row: pa.Table) -> pa.Table | Failure:
    how = ""
    for _ in range(CHANCES):
        try:
            return process.ask(row)
        except Died as died:
            how = str(died)
        except Raised as raised:
            return Failure(raised.type, str(raised))
    return Failure(None, how)
