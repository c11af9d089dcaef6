"""Synthetic scenes with questions, and a tiny trained LLaVA-NeXT that answers them: a yardstick for pruning.

    scenes.py     what a scene is, how it is drawn, which seeds are for what
    questions.py  what is asked about it
    dataset.py    scenes and questions as a Parquet dataset         python -m adafv.testbed.dataset
    score.py      labels against the truth                          python -m adafv.testbed.score
    model.py      the tiny model, its processor, its checkpoints
    train.py      how a checkpoint was made                         python -m adafv.testbed.train
    weights/      the checkpoints

docs/testbed.md says what its figures are, and what they are no evidence for.
"""

# What `--model` calls the trained models, and their folders under weights/.
CHECKPOINTS = {"testbed": "aligned", "testbed-emerged": "emerged"}
