"""Drawn scenes with questions, and tiny trained models of three families that answer them.

    scenes.py     what a scene is, how it is drawn, which seeds are for what
    questions.py  what is asked about it
    dataset.py    scenes and questions as a Parquet dataset         python -m adafv.worlds.drawn.dataset
    score.py      labels against the truth                          python -m adafv.worlds.drawn.score
    textures.py   backgrounds of the textured scenes
    family.py     what training needs to know of a kind of model
    model.py      the tokens, and the testbed's LLaVA-NeXT
    llava.py      LLaVA-NeXT with CLIP, LLaVA-OneVision with SigLIP
    qwen.py       Qwen2.5-VL
    evaluate.py   a model asked about scenes, nothing pruned
    batches.py    what training reads
    attention.py  many questions on one picture
    losses.py     what training minimises
    recipes.py    the models, and the stages that each is trained in
    train.py      how their weights were made                       python -m adafv.worlds.drawn.train

The weights lie in `adafv.embedded` and in weights/.
docs/worlds.md says what its figures are, and what they are no evidence for.
"""
