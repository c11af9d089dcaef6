"""Measure AdaFV Batch on this machine. Every figure in the documents comes from one of these commands.

    adafv bench speed --preset cpu-small          samples a second, beside stock transformers and the reference
    adafv bench gpu --json gpu.json               everything worth measuring on a GPU, in half an hour
    adafv bench quality --chart quality.png       what pruning costs in accuracy, by strategy and budget
    adafv bench quality --worlds all              the same in every world, and the worst over worlds
    adafv bench quality --input vqa.jsonl         the same on your own labelled data, with your model
    adafv bench constants                         adafv-plus's constants, each choice judged in a world it hasn't seen
    adafv bench promise                           whether calibrated second looks keep their promise, and what they save
    adafv bench constrained --vocabulary 32000    what a schema costs a decoding step
    adafv bench ledger --ids 1000000 10000000     memory and time to plan a rerun
    adafv bench pipeline --rows 4000              a job's speed beside its engine's; its memory
    adafv bench peers                             the same rows by this job and by ray.data.llm with vLLM
    adafv bench plan --rows 4000                  how near adafv label --plan comes to what a run takes
    adafv bench scale --rows 10000 50000          what bounds a job on many workers, by simulation
    adafv bench report --rows 1000000             memory and time of a report, page included

Each makes the data that it needs, prints a table and the machine, and with --json writes the figures to a file. `speed`
needs torch and transformers only, no Ray.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from adafv.bench import job_commands
from adafv.bench.arguments import Figures, add_counts, add_job_options, add_names, job_options, share
from adafv.bench.machine import Machine, this_machine
from adafv.pipeline.arguments import as_called
from adafv.pipeline.errors import UsageError

if TYPE_CHECKING:
    from adafv.pipeline.options import JobOptions

DONE, USAGE = 0, 2
SCENES = 200
# What a job calls by the same names, checks and explains.
DATA = ("id_column", "image_column", "question_column", "image_root", "prompt", "limit", "allow_http", "s3_endpoint")
MODEL = ("model", "max_new_tokens", "text_scope", "newlines", "positions", "batch_size", "device", "dtype")
KEEPS = "0.5,0.25,0.1,0.05"
IN_WORLDS = ("strategy", *MODEL[1:])  # a world brings its model


def main(arguments: Sequence[str] | None = None, prog: str = "bench.py") -> int:
    """Run one benchmark; the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("adafv").setLevel(logging.INFO)
    arguments = sys.argv[1:] if arguments is None else arguments
    options = make_parser(arguments, prog).parse_args(arguments)
    try:
        for name in ("json", "chart"):
            _check_file(name, getattr(options, name, None))
        figures, text = options.run(options)
    except UsageError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return USAGE
    machine = this_machine()
    print(f"{text}\n{machine}")
    if options.json:
        options.json.write_text(json.dumps(options.written(options.command, figures, machine), indent=2) + "\n")
    return DONE


def _check_file(name: str, path: Path | None) -> None:
    """What is measured for minutes must not be lost for want of a folder."""
    if path is not None and path.is_dir():
        raise UsageError(f"--{name} {path} is a folder; name a file in it")
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"--{name} {path}: there is no folder {path.parent}")


def make_parser(arguments: Sequence[str], prog: str = "bench.py") -> argparse.ArgumentParser:
    """A parser of `arguments`. It knows the options of the command that they name, and of no other: some import what
    others do without.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=as_called(__doc__, prog), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, add in COMMANDS.items():
        command = commands.add_parser(name, help=add.__doc__)
        if name in arguments:
            command.set_defaults(written=_with_machine)
            add(command)
            command.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    return parser


def _with_machine(command: str, figures: Figures, machine: Machine) -> object:
    return {"machine": asdict(machine), command: figures}


def _beside_machine(command: str, figures: Figures, machine: Machine) -> object:
    assert isinstance(figures, dict)
    return {"machine": asdict(machine), **figures}


def _alone(command: str, figures: Figures, machine: Machine) -> object:
    return figures


def _add_speed(parser: argparse.ArgumentParser) -> None:
    """samples a second and how near to the hardware's limit, beside stock transformers and the reference method"""
    from adafv.bench.shapes import PRESETS
    from adafv.bench.speed import SUITABLE
    from adafv.engine.options import DTYPES, EngineOptions
    from adafv.pruning import STRATEGIES

    samples, sizes = (
        f"({SUITABLE['cpu'][name]} on a CPU, {SUITABLE['cuda'][name]} on a GPU)" for name in ("samples", "batch_size")
    )

    parser.add_argument("--preset", choices=PRESETS, default="cpu-small", help="shape of the model (%(default)s)")
    parser.add_argument("--rows", help="names of rows, comma-separated; all, if left out")
    parser.add_argument(
        "--strategy", choices=STRATEGIES, metavar="NAME", default=EngineOptions().strategy, help="(%(default)s)"
    )
    add_counts(
        parser,
        samples=(None, f"questions that each row answers in a round {samples}"),
        questions=(1, "questions about each picture (%(default)s)"),
        batch_size=(None, f"questions answered at once {sizes}"),
        max_new_tokens=(32, "tokens of each answer (%(default)s)"),
        rounds=(2, "how often each row is measured (%(default)s)"),
        threads=(None, "of a CPU (as many as there are cores)"),
    )
    parser.add_argument(
        "--again", type=share, default=0.3, metavar="X", help="share of second looks in the row for them (%(default)s)"
    )
    parser.add_argument("--mixed", action="store_true", help="pictures of several sizes, questions of several lengths")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(cuda where there is one)")
    kinds = [name for name in DTYPES if name != "auto"]
    parser.add_argument("--dtype", choices=kinds, help="(float32 on a CPU, bfloat16 on a GPU)")
    parser.set_defaults(run=_run_speed, written=_beside_machine)


def _run_speed(options: argparse.Namespace) -> tuple[Figures, str]:
    from adafv.bench import speed

    given = {item.name: getattr(options, item.name) for item in fields(speed.Settings)}
    rows = tuple(options.rows.split(",")) if options.rows else ()
    return speed.run(speed.Settings.of(**given | {"rows": rows}))


def _add_constrained(parser: argparse.ArgumentParser) -> None:
    """what a schema costs a decoding step, with a language model of the testbed's sizes"""
    add_counts(
        parser,
        vocabulary=(1000, "tokens that the model knows (%(default)s)"),
        batch_size=(16, "answers that are decoded together (%(default)s)"),
        steps=(64, "tokens of each answer (%(default)s)"),
        rounds=(8, "batches that are measured (%(default)s)"),
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.set_defaults(run=_run_constrained)


def _run_constrained(options: argparse.Namespace) -> tuple[Figures, str]:
    from adafv.bench import constrained

    given = {item.name: getattr(options, item.name) for item in fields(constrained.ConstrainedTerms)}
    return constrained.run(constrained.ConstrainedTerms(**given))


def _add_gpu(parser: argparse.ArgumentParser) -> None:
    """everything that is worth measuring on a GPU: labels beside a CPU's, memory, launches, speed"""
    from adafv.bench.gpu import MODELS, PARTS
    from adafv.bench.shapes import PRESETS

    parser.add_argument("--preset", choices=PRESETS, default="llava-next-7b", help="shape of the model (%(default)s)")
    add_names(
        parser, parts=(",".join(PARTS), "what to measure"), models=(",".join(MODELS), "small ones that are asked")
    )
    add_names(parser, strategies=("all", "whose labels are compared"))
    add_counts(parser, questions=(200, "to each small model (%(default)s)"))
    parser.add_argument(
        "--minutes", type=float, metavar="M", default=25, help="no part begins after so many (%(default)s)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="cpu, to try the command (cuda)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="(bfloat16; on a CPU float32)")
    parser.set_defaults(run=_run_gpu)


def _run_gpu(options: argparse.Namespace) -> tuple[Figures, str]:
    from adafv.bench import gpu
    from adafv.pipeline.arguments import parse_strategies

    parts = options.parts.split(",")
    unknown = [name for name in parts if name not in gpu.PARTS]
    if unknown:
        raise UsageError(f"--parts names {', '.join(unknown)}; there are {', '.join(gpu.PARTS)}")
    given = {name: getattr(options, name) for name in ("device", "preset", "questions", "dtype")}
    strategies = ("none", *parse_strategies(options.strategies))
    settings = gpu.of(**given, models=options.models.split(","), strategies=strategies)
    return gpu.run(settings, parts, options.minutes)


def _add_quality(parser: argparse.ArgumentParser) -> None:
    """what pruning costs in accuracy, by strategy, budget and type of question"""
    from adafv.scoring.metrics import METRICS

    _add_scenes(parser)
    parser.add_argument("--worlds", metavar="NAMES", help="compare in these, each with its own model; all of them: all")
    add_names(parser, keep=(KEEPS, "fractions of the visual tokens"))
    parser.add_argument(
        "--strategies",
        default="all",
        help="names, comma-separated; none is always there, and resize shows a smaller picture (%(default)s)",
    )
    parser.add_argument("--chart", type=Path, metavar="FILE.png", help="draw accuracy over budget; needs adafv[bench]")
    data = parser.add_argument_group("your own data, in place of the testbed's scenes")
    as_for = as_called("as for adafv label, with answers", parser.prog)
    data.add_argument("--input", nargs="+", action="extend", metavar="URI", help=as_for)
    data.add_argument("--answer-column", metavar="NAME", help="column with the right answer or answers (answer)")
    data.add_argument("--type-column", metavar="NAME", help="column to tell types of questions by")
    data.add_argument("--metric", metavar="NAME", help=f"how answers are scored: {', '.join(METRICS)} (exact)")
    add_job_options(data, DATA)
    add_job_options(parser.add_argument_group("model"), (*MODEL, "text_tower"))
    parser.set_defaults(run=_run_quality, written=_alone)


def _run_quality(options: argparse.Namespace) -> tuple[Figures, str]:
    from adafv.bench import chart, quality
    from adafv.pipeline.arguments import parse_keeps, parse_strategies

    if options.chart:
        chart.require()
    job = job_options(options, tuple(options.input or "-"), (*DATA, *MODEL))
    strategies, keeps = parse_strategies(options.strategies, (quality.RESIZED,)), parse_keeps(options.keep)
    if options.worlds:
        found, text = _in_worlds(options, job, strategies, keeps)
    else:
        source = _labelled_data(options, job) if options.input else _scenes(options)
        found = [quality.run(job, source, strategies, keeps, options.seed, options.text_tower)]
        text = found[0].text()
    if options.chart:
        chart.draw(found, options.chart)
    return [row for one in found for row in one.rows()], text


def _in_worlds(options: argparse.Namespace, job: JobOptions, strategies: Sequence[str], keeps: Sequence[float]):  # type: ignore[no-untyped-def]
    """The comparison in each world, printed as it is made, and what to say at the end."""
    from adafv.bench import quality

    for name in ("input", "text_tower"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} doesn't go with --worlds, which bring their own")
    if job.model != job_options(options, ("-",), ()).model:
        raise UsageError("--model doesn't go with --worlds, which bring their own")
    found = []
    worlds = quality.parse_worlds(options.worlds)
    for comparison in quality.in_worlds(job, worlds, options.scenes, strategies, keeps, options.seed):
        found.append(comparison)
        print(comparison.text(), end="\n\n", flush=True)
    return found, quality.summary(found)


def _add_constants(parser: argparse.ArgumentParser) -> None:
    """adafv-plus's constants, chosen on all worlds but one and judged on that one"""
    add_names(parser, worlds=("all", "each with its own model"), keep=(KEEPS, "fractions of the visual tokens"))
    add_counts(parser, scenes=(None, "of each world, to choose on and to judge on"))
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first scene to choose on (%(default)s)")
    parser.set_defaults(run=_run_constants)


def _run_constants(options: argparse.Namespace) -> tuple[Figures, str]:
    from adafv.bench import constants, quality
    from adafv.pipeline.arguments import parse_keeps

    job, worlds = job_options(options, ("-",), ()), quality.parse_worlds(options.worlds)
    return constants.run(job, worlds, options.scenes, parse_keeps(options.keep), options.seed)


def _add_promise(parser: argparse.ArgumentParser) -> None:
    """whether calibrated second looks keep their promise on other rows, and what they save"""
    _add_scenes(parser)
    add_names(parser, worlds=("testbed", "each with its own model"), keep=(KEEPS, "first keep ratios"))
    parser.add_argument("--min-agreement", type=float, default=0.98, metavar="X", help="demanded (%(default)s)")
    add_counts(
        parser,
        rows=(3000, "questions asked (%(default)s)"),
        sample=(500, "rows of a calibration (%(default)s)"),
        repeats=(200, "calibrations (%(default)s)"),
    )
    parser.add_argument("--chart", type=Path, metavar="FILE.png", help="draw agreement over cost; needs adafv[bench]")
    add_job_options(parser.add_argument_group("model"), IN_WORLDS)
    parser.set_defaults(run=_run_promise)


def _run_promise(options: argparse.Namespace) -> tuple[Figures, str]:
    from adafv.bench import chart, promise
    from adafv.pipeline.arguments import parse_keeps

    if options.chart:
        chart.require()
    terms = promise.Terms(options.min_agreement, options.rows, options.sample, options.repeats, options.seed)
    found = []
    for job, scenes in _by_world(options):
        figures, text = promise.run(job, scenes, parse_keeps(options.keep), terms)
        found.append({"world": scenes.of.name, **figures})
        print(text, end="\n\n", flush=True)
    if options.chart:
        chart.draw_agreement(found, options.chart)
    return found, promise.summary(found)


def _add_scenes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scenes", type=int, metavar="N", help=f"held-out scenes ({SCENES} of the testbed)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="the first scene's place; also seeds the draws"
    )


def _scenes(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from adafv.bench.examples import Scenes

    for name in ("answer_column", "type_column", "metric"):
        if getattr(options, name, None) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is for data of your own, given with --input")
    return Scenes(SCENES if options.scenes is None else options.scenes, options.seed)


def _by_world(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    """Each world's job, with its own model, and its scenes."""
    from adafv.bench.examples import Scenes
    from adafv.bench.quality import job_in, parse_worlds, present

    job, count = job_options(options, ("-",), IN_WORLDS), SCENES if options.scenes is None else options.scenes
    for world in present(parse_worlds(options.worlds)):
        yield job_in(world, job), Scenes(count, options.seed, world)


def _labelled_data(options: argparse.Namespace, job: JobOptions):  # type: ignore[no-untyped-def]
    from adafv.bench.examples import LabelledData

    if options.scenes is not None:
        raise UsageError("--scenes is for the testbed; --input brings its own data (--limit takes its first rows only)")
    return LabelledData(job, options.answer_column or "answer", options.type_column, options.metric or "exact")


COMMANDS = {
    "speed": _add_speed,
    "gpu": _add_gpu,
    "quality": _add_quality,
    "constants": _add_constants,
    "promise": _add_promise,
    "constrained": _add_constrained,
    "ledger": job_commands.add_ledger,
    "pipeline": job_commands.add_pipeline,
    "peers": job_commands.add_peers,
    "plan": job_commands.add_plan,
    "scale": job_commands.add_scale,
    "report": job_commands.add_report,
}
