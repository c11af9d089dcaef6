"""What a run cost, how fast it was and what it kept, read from an output. Needs neither Ray nor torch.

runs       the records of an output's runs, killed ones included
prices     what an hour of a worker costs
labels     the labels, streamed into sums and a few rows (top_rows, timeline); rejects: examples
saved      what pruning saved, measured or estimated
report     all of these together, as text and JSON
compare    two outputs side by side
page       the report as HTML: charts, and a gallery of cards
card       the card of published labels
pictures   the images for the cards, found again and scaled down (thumbnails)
drawing    the kept tokens over an image; svg: its elements
"""
