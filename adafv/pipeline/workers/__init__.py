"""The work on a row: `prepare` makes a sample of it on a CPU, `label` has the model answer batches of samples, on a GPU
where there is one, and `model` finds the model's files on a node."""
