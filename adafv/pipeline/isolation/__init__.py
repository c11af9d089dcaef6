"""Work that may kill or hang its process is done in a child process, and what does so is found and named.

A damaged picture can crash a decoder, a sample can take the GPU's context with it, either can hang for ever. Ray runs
the task of a dead process again, without limit, so one such row would keep a job from ever ending. So the Ray worker
only hands rows to a child process and waits: if the child dies or makes no progress, another is started, and the rows
that it had in hand are tried one by one. A row that also kills alone, twice, becomes a reject; the others are labelled.

    channel   Arrow tables from process to process, through shared memory
    child     what the child process runs
    process   the child process as its parent sees it: asked, watched, started again
    blame     all rows together; if that fails, which row it is
"""

from adafv.pipeline.isolation.blame import Failure, work
from adafv.pipeline.isolation.process import Handler, Isolated, StartError

__all__ = ["Failure", "Handler", "Isolated", "StartError", "work"]
