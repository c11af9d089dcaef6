"""What a run cost, how fast it was and what it kept, read back from an output. Needs neither Ray nor torch.

runs     the records of an output's runs, also of those that were killed
prices   what an hour of a worker costs
labels   the labels, streamed into sums and samples
saved    what pruning saved, measured or estimated
report   these put together, as text and as JSON
compare  two outputs side by side
"""
