"""Runs work that may crash or hang in a child process, and finds the row that did it.

A damaged image can crash a decoder, a sample can kill the GPU's context, and either can hang for ever. Ray reruns the
task of a dead process without limit, so one such row would keep a job from ending. So the Ray worker only hands rows to
a child process: if that dies or makes no progress, another is started and its rows are tried one by one. A row that
kills the process twice when alone becomes a reject.

    channel   Arrow tables between processes, through shared memory
    child     the child process
    process   the child as its parent sees it: asked, watched, restarted
    blame     all rows at once; if that fails, one by one
"""

from adafv.pipeline.isolation.blame import Failure, run_isolated
from adafv.pipeline.isolation.process import Handler, Isolated, RefusedError, StartError

__all__ = ["Failure", "Handler", "Isolated", "RefusedError", "StartError", "run_isolated"]
