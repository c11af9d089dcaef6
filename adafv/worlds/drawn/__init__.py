"""Drawn scenes with questions, and a tiny trained LLaVA-NeXT that answers them.

    scenes.py     what a scene is, how it is drawn, which seeds are for what
    questions.py  what is asked about it
    dataset.py    scenes and questions as a Parquet dataset         python -m adafv.worlds.drawn.dataset
    score.py      labels against the truth                          python -m adafv.worlds.drawn.score
    model.py      the tiny model and its processor
    evaluate.py   the model asked about scenes, nothing pruned
    batches.py    what training reads
    losses.py     what it minimises
    train.py      how its weights, in `adafv.embedded`, were made   python -m adafv.worlds.drawn.train

docs/testbed.md says what its figures are, and what they are no evidence for.
"""
