"""AdaFV Batch: label image datasets with a vision-language model whose visual tokens are pruned per question.

Dependencies point downwards only::

    internals  private names of other libraries, in one place
    option     how options are declared
    onednn     attention and matrix products on x86 CPUs     torch
    pruning    tensors in, kept tokens out
    models     a family's visual tokens, cues and geometry   + transformers
    engine     prepared samples in, labels out               + Pillow
    pipeline   sources, fetch, decode, workers, sink         + Ray, PyArrow, boto3
    calibration, reporting, exporting                        what one does with labels
    commands   adafv label, calibrate, report, export

`embedded` has the small models that come with the package. Beside it, and not in the wheel, stand `bench`, the
measurements, and `worlds`, the pictures and questions that they are made on.
"""

import logging

from adafv.internals import NOISY_LOGGERS

__version__ = "0.1.0"

# Wherever torchao is installed transformers imports it, and each time it warns of kernels for machines other than this.
for _name in NOISY_LOGGERS:
    logging.getLogger(_name).setLevel(logging.ERROR)
