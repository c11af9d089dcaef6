"""Mutated images and mutated rows through the real job: each must end in exactly one of its two outputs.

    python -m tests.fuzz --images 10000 --rows 10000 --schemas 5000 --seed 1 --json build/fuzz.json
    python -m tests.fuzz --seed 1 --only 4711        # that image and that row again, on their own

`images` and `rows` make the cases, each from the seed and its number alone; `job` writes them as inputs, runs
jobs/label.py on them and counts what comes out; `growth` decodes all the images in one process and watches its size.
`schemas` makes tables of all of Arrow's types in every column, and reads them without a model.
"""
