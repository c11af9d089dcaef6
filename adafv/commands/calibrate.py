"""Find the budget that is safe on your own data, before you label all of it.

    adafv calibrate --input data/ --output calibration/ --sample 500 --keep 0.5,0.25,0.1,0.05
    adafv calibrate --input s3://bucket/vqa/ --output s3://bucket/calibration --answer-column answers \
        --metric vqa --min-agreement 0.95 --price-per-hour 2.50 --html calibration.html

Labels a random sample of the input, the same in every run, without pruning and at each budget. Prints how far the
answers agree, what each budget costs, the cheapest budget that is shown to agree as much as demanded, and the command
line that labels everything with it. The same command resumes an interrupted calibration.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from adafv.calibration.options import DECIDED, parse_command
from adafv.commands import DONE, FAILED, USAGE, set_up_job
from adafv.commands.failure import FAILURES, said
from adafv.pipeline.arguments import as_called
from adafv.pipeline.errors import RunError, UsageError

EPILOG = f"""\
exit status:
  0  done, whether or not it recommends a budget
  1  a run failed; the same command resumes it
  2  wrong option, input or model

--config takes the job's own file. A calibration ignores what it decides itself:
{", ".join(name.replace("_", "-") for name in DECIDED)}.
Environment variables are those of adafv label.
"""


def main(arguments: Sequence[str] | None = None, prog: str = "calibrate.py") -> int:
    """Calibrate; the exit status."""
    set_up_job()
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
    except (RunError, *FAILURES) as error:
        print(f"{prog}: failed: {said(error)}\nRunning the same command again resumes it.", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; running the same command again resumes it", file=sys.stderr)
        return FAILED
    return DONE
