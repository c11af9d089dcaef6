"""The stages that work on a row: `prepare` makes a sample on a CPU, `label` runs the model on batches of samples.

`samples` is the table that samples travel in; `repeats` gives rows the labels of their duplicates; `model` finds a
model's files on this node, and `hub` those of the Hugging Face Hub.
"""
