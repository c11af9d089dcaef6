"""A batch of prepared samples in, labels out: encode once per image, prune per question, generate.

    options     what can change a label
    sample      what goes in and what comes out
    prepare     image and prompt to `Sample`, on a CPU
    sequence    what the language model reads: the prompt with the kept visual tokens in it
    generation  transformers' `generate`, observed: log-probabilities, and when prefill ended
    faults      too little memory: halve the batch; and errors after which a process has to end
    stopwatch   stage times without stalling the device
    engine      puts them together

Needs torch and transformers; works where Ray isn't installed.
"""

from adafv.engine.engine import Engine, load_model
from adafv.engine.faults import is_out_of_memory, is_spent
from adafv.engine.options import EngineOptions
from adafv.engine.prepare import PrepareError, Preparer
from adafv.engine.sample import Label, Sample
from adafv.models.geometry import Panel

__all__ = [
    "Engine",
    "EngineOptions",
    "Label",
    "Panel",
    "PrepareError",
    "Preparer",
    "Sample",
    "is_out_of_memory",
    "is_spent",
    "load_model",
]
