"""Label a data set of images and questions with a vision-language model whose visual tokens are pruned.

    adafv label --input photos/ --prompt 'Describe the image.' --output out/
    adafv label --input s3://bucket/vqa.parquet --output s3://bucket/labels --model llava-hf/... --keep 0.1

Labels, rejected rows with their reasons, and a record of each run go to --output. The same command again resumes the
run, or labels rows that the input has gained. --plan only says what that would take and cost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adafv.commands import DONE, FAILED, USAGE, set_up_job
from adafv.pipeline.arguments import as_called, job_options, make_parser, parse_arguments
from adafv.pipeline.errors import RunError, UsageError

if TYPE_CHECKING:
    from adafv.pipeline.record.run_record import RunRecord

EPILOG = """\
exit status:
  0  done
  1  the run failed; the same command resumes it
  2  wrong option, input or model
  3  more rejects than --max-reject-rate, nothing but rejects, or with --audit-fails less agreement than --min-agreement
  4  stopped by --max-cost or --max-hours; what was labelled is written, and the same command labels the rest

S3 keys and region come from the standard AWS environment variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL) or the machine's role. RAY_ADDRESS names the Ray cluster to run on;
without it, the job starts Ray on this machine.
"""


def main(arguments: Sequence[str] | None = None, prog: str = "label.py") -> int:
    """Run the job; the exit status."""
    set_up_job()
    try:
        values = parse_arguments(command_parser(prog), sys.argv[1:] if arguments is None else arguments)
        options = job_options(values)
        if values["measured"] is not None and not values["plan"]:
            raise UsageError("--measured is only for --plan; give --plan too, or leave it out")
        from adafv.pipeline.planning.plan import plan, summary
        from adafv.pipeline.run import run  # here, so that --help and a wrong option don't wait for Ray

        if values["plan"]:
            print(summary(plan(options, values["measured"])))
            return DONE
        result = run(options)
    except UsageError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return USAGE
    except RunError as error:
        print(f"{prog}: the run failed: {error}\nRunning the same command again resumes it.", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; running the same command again resumes it", file=sys.stderr)
        return FAILED
    print(result.run.table())
    if result.run.has_too_many_rejects(options.max_reject_rate):
        print(f"{prog}: {_too_many(result.run, options.max_reject_rate)}", file=sys.stderr)
    if result.run.agrees_too_little(options.min_agreement):
        print(f"{prog}: {_too_little(result.run, options.min_agreement)}", file=sys.stderr)
    if result.run.stopped_by is not None:
        print(
            f"{prog}: --{result.run.stopped_by} is reached; {result.run.left:,} rows are left; the same command labels "
            "them",
            file=sys.stderr,
        )
    return result.status


def _too_many(run: RunRecord, most: float | None) -> str:
    """The message for too many rejects, with what they have in common."""
    share = f"{run.tally.rejected.total():,} of {run.tally.rows:,} rows were rejected; --max-reject-rate is {most}"
    every = "every row was rejected (with --max-reject-rate 1 the exit status is 0 all the same)"
    return "\n  ".join([every if most is None else share, *run.tally.reasons.lines()])


def _too_little(run: RunRecord, least: float | None) -> str:
    """The message for too little agreement of the audited rows."""
    from adafv.scoring.bounds import floored  # here: it imports numpy

    found = run.tally.audit.estimate()
    assert found is not None  # or they would not agree too little
    return (
        f"the {run.tally.audit.rows:,} audited rows agree {floored(found.value):.4f} [{floored(found.low):.4f}, "
        f"{found.high:.4f}] with the unpruned answers; --min-agreement is {least}. adafv calibrate finds a safer "
        "--keep or --escalate-below"
    )


def command_parser(prog: str = "label.py") -> argparse.ArgumentParser:
    """A parser for a job's options, --plan and --measured."""
    parser = make_parser(as_called(__doc__, prog), EPILOG)
    parser.prog = prog
    group = parser.add_argument_group("planning")
    group.add_argument("--plan", action="store_true", help="say what the remaining rows take and cost; write nothing")
    group.add_argument(
        "--measured", metavar="URI",
        help="output whose measurements --plan uses (default: --output)",
    )  # fmt: skip
    return parser
