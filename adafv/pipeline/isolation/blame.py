"""All rows together; if that fails, one by one, to find the row that it is.

A batch that dies says little: the machine may have killed the process for reasons of its own. Tried one by one, in a
new process, the innocent rows come through, and the row that kills does so again, alone. It is given a second chance
alone, because that death too may have been an accident; then it is a failure. So a row is given up at the third death
that it had a part in, two of them its own.

Halving the batch again and again would find the row too, but each half that holds it costs another death, and with it
another loading of the model: a killer among 32 rows costs three deaths this way, and eight by halves. For a row that
hangs, each costs a whole time-out. Labelling the rest of one batch row by row is cheap beside that.

An exception is told from a death: the process lives on, and what raised alone will raise again.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from adafv.pipeline.isolation.process import Died, Isolated, Raised

CHANCES = 2  # deaths that a row may cause when it is alone


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row could not be worked on.

    Attributes:
        type: the class of the exception that it raised; None where it killed or hung its process.
        message: what happened, in words. Not yet safe to show.
    """

    type: str | None
    message: str


def work(process: Isolated, table: pa.Table) -> tuple[list[pa.Table], dict[int, Failure]]:
    """Give all rows of `table` to `process`.

    Returns:
        Its answers, which together cover the rows that came through; and, by number, the rows that didn't.

    Raises:
        StartError: no process can be had; no row is to blame.
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
