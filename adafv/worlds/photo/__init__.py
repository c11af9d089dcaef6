"""Photographs of things over photographs, questions in plain English, and LLaVAs of published parts that answer them.

    cache.py      where all that isn't in the repository lies
    packages.py   the packages with weights and pictures: fetched, checked, unpacked
    pictures.py   the things and backgrounds, small, and which are held out
    scenes.py     what a scene or a sheet of signs is, how it is drawn, which seeds are for what
    questions.py  what is asked about it
    dataset.py    scenes and questions as a Parquet dataset          python -m adafv.worlds.photo.dataset
    score.py      what an answer is worth
    parts.py      DINOv2-small and SmolLM2-135M-Instruct out of their packages
    lora.py       low-rank additions to the language model
    packed.py     the language model for training: many questions to a picture
    features.py   the frozen tower's features, kept on disk
    crops.py      LLaVA-NeXT's crops
    batches.py    what training reads
    projector.py  LLaVA's projector
    align.py      the warm-up that names things
    places.py     where patches stand, which it forgets           python -m adafv.worlds.photo.places
    recipes.py    the stages of each training
    trainer.py    goes through them
    train.py      how the projector and the additions were trained   python -m adafv.worlds.photo.train
    export.py     what was trained, into weights/                    python -m adafv.worlds.photo.export
    model.py      LLaVA checkpoints of the parts and weights/
    build.py      all that `--model testbed-photo` needs             make photo
    weights/      projector and additions, and the logs of their training

Nothing of the packages is in the repository. docs/worlds.md says what the figures are, and what they are no evidence
for.
"""
