"""python -m tests.campaign --kills N [--seed S] [--rows N] [--below X] [--repeated X] [--log FILE] [--keep-logs DIR]"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

# On two cores that several processes share, threads that spin while they wait cost more than they give.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.campaign.campaign import Campaign, Settings
from tests.services import RayCluster, S3Server


def main() -> int:
    """Run a campaign; 0 if all was sound."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description="kill a job at random, and check it")
    parser.add_argument("--kills", type=int, required=True, metavar="N", help="how many, in all")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is struck and when; timing differs")
    parser.add_argument("--rows", type=int, default=2000, metavar="N", help="of the input")
    parser.add_argument("--below", type=float, metavar="X", help="confidence under which rows have a second look")
    parser.add_argument("--repeated", type=float, default=0.0, metavar="X", help="share of rows that repeat others")
    parser.add_argument("--log", type=Path, metavar="FILE", help="a copy of what is printed")
    parser.add_argument("--keep-logs", type=Path, metavar="FOLDER", help="where what the jobs say is kept")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminate)
    with contextlib.ExitStack() as stack:
        folder = options.keep_logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign")))
        folder.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(options.log.open("w")) if options.log else None

        def say(line: str) -> None:
            for stream in (sys.stdout, file):
                if stream is not None:
                    print(line, file=stream, flush=True)

        store = stack.enter_context(S3Server(folder / "store"))
        cluster = stack.enter_context(RayCluster(head_cpus=0))
        for _ in range(2):
            cluster.add_node()
        settings = Settings(options.kills, options.seed, options.rows, below=options.below, repeated=options.repeated)
        campaign = Campaign(settings, folder, store, cluster, say)
        campaign.prepare()
        return 0 if campaign.run().sound else 1


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends it as Ctrl-C does: with all that it started."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
