"""What a run cost, how fast it was and what it kept, read back from an output. Needs neither Ray nor torch.

runs         the records of an output's runs, also of those that were killed
prices       what an hour of a worker costs
labels       the labels, streamed into sums and into a few rows (outstanding, timeline); rejects: a few of those
saved        what pruning saved, measured or estimated
report       these put together, as text and as JSON
compare      two outputs side by side
page         the report as HTML: charts, and a gallery of cards
card         what is said of labels that are published
pictures     the images of the cards' rows, found again and made small (thumbnails)
drawing      the kept tokens over an image
"""
