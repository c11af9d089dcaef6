"""Which budget is safe on a user's own data: a sample of it, labelled unpruned and at each budget, by the job itself.

options      what is asked, and which candidates that makes
calibration  labels the sample with every candidate and holds the answers against the unpruned ones
answers      what a candidate answered, read back from its output
demand       what answers are held to: agreement, accuracy, or how far that may fall
truth        the right answers, where the data set has them
budgets      agreement, accuracy and cost of one candidate
verdict      which budget is recommended, and what is not decided
cascades     the cheapest pair of looks that is shown to agree; second_looks: the pairs that were labelled
strata       thresholds of second looks that differ by question type or source
summary      the text that is printed; command: the command line to run next
page         one HTML file
"""
