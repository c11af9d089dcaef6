"""The work on a row: `prepare` makes a sample of it on a CPU, `samples` is how that travels, and `label` has the model
answer batches of them, on a GPU where there is one. `model` finds the model's files on a node, `hub` those of the
Hugging Face hub."""
