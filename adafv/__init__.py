"""AdaFV Batch: label image datasets with a vision-language model whose visual tokens are pruned per question.

Each of these depends only on those above it::

    internals  private names of other libraries, in one place
    option     how options are declared
    boxes      where a label's kept tokens lie on its image
    turn       one side's words in a conversation
    uploading  tensors onto a GPU without waiting
    hardware   what the machine is called; spot: machines for Ray's cluster launcher
    scoring    how answers are judged; counting: the operations and bytes that labelling takes
    onednn     attention and matrix products on x86 CPUs     torch
    pruning    tensors in, kept tokens out
    models     a family's visual tokens, cues and geometry   + transformers
    engine     prepared samples in, labels out               + Pillow
    pipeline   sources, fetch, decode, workers, sink         + Ray, PyArrow, boto3
    calibration, reporting, exporting                        what one does with labels
    commands   adafv label, calibrate, report, export, bench

From Python: `adafv.label(adafv.JobOptions.of(input=["vqa.parquet"], output="out/", keep=0.25))` runs a job, and
`adafv.label_boxes(row)` says where on its image a label's kept tokens lie.

`embedded` has the small models that come with the package. Beside it, and not in the wheel, stand `bench`, the
measurements, and `worlds`, the pictures and questions that they are made on.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from adafv.internals import NOISY_LOGGERS

if TYPE_CHECKING:
    from adafv.boxes import label_boxes
    from adafv.engine.options import EngineOptions
    from adafv.pipeline.errors import RunError, UsageError
    from adafv.pipeline.options import JobOptions
    from adafv.pipeline.result import RunResult
    from adafv.pipeline.run import label

__all__ = ["EngineOptions", "JobOptions", "RunError", "RunResult", "UsageError", "label", "label_boxes"]
__version__ = "0.1.0"

# For notebooks and the tasks of schedulers. Each is imported when it is asked for: `label` needs Ray, this does not.
_MODULES = {
    "EngineOptions": "adafv.engine.options",
    "JobOptions": "adafv.pipeline.options",
    "RunError": "adafv.pipeline.errors",
    "RunResult": "adafv.pipeline.result",
    "UsageError": "adafv.pipeline.errors",
    "label": "adafv.pipeline.run",
    "label_boxes": "adafv.boxes",
}

# Wherever torchao is installed transformers imports it, and each time it warns of kernels for machines other than this.
for _name in NOISY_LOGGERS:
    logging.getLogger(_name).setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
