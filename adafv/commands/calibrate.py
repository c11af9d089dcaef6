"""Find the budget that is safe on your own data, before you label all of it.

    adafv calibrate --input data/ --output calibration/ --sample 500 --keep 0.5,0.25,0.1,0.05
    adafv calibrate --input s3://bucket/vqa/ --output s3://bucket/calibration --answer-column answers \
        --metric vqa --min-agreement 0.95 --price-per-hour 2.50 --html calibration.html

Labels a random sample of the input, the same one in every run, without pruning and at each budget. Says how far the
answers agree, what each budget costs, which one is the cheapest of those that are shown to agree as much as demanded,
and the command line that labels everything with it. A calibration that was ended is resumed by the same command.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from adafv.calibration.options import DECIDED, parse_command
from adafv.pipeline.arguments import as_called
from adafv.pipeline.errors import RunError, UsageError

DONE, FAILED, USAGE = 0, 1, 2
EPILOG = f"""\
exit status:
  0  done, whether a budget is recommended or none
  1  a run failed; the same command resumes it
  2  usage

--config takes the file of the job to be calibrated; what a calibration decides by itself counts for nothing in it:
{", ".join(name.replace("_", "-") for name in DECIDED)}.
Environment variables are those of adafv label.
"""


def main(arguments: Sequence[str] | None = None, prog: str = "calibrate.py") -> int:
    """Calibrate; the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("adafv").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        texts = as_called(__doc__, prog), as_called(EPILOG, prog)
        command = parse_command(sys.argv[1:] if arguments is None else arguments, *texts, prog)
        from adafv.calibration.calibration import calibrate  # here, so that --help doesn't wait for what it imports
        from adafv.calibration.summary import summary

        calibration = calibrate(command.options)
        print(summary(calibration))
        if command.html:
            from adafv.calibration.page import render

            command.html.write_text(render(calibration))
        if command.json:
            command.json.write_text(json.dumps(calibration.as_json(), indent=2) + "\n")
    except UsageError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return USAGE
    except (RunError, OSError) as error:
        print(f"{prog}: failed: {error}\nRunning the same command again resumes it.", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; running the same command again resumes it", file=sys.stderr)
        return FAILED
    return DONE


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends it as Ctrl-C does: what is labelled is written first."""
    raise KeyboardInterrupt
