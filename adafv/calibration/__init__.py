"""Which budget is safe on a user's own data: the job labels a sample unpruned and at each budget.

options      what to calibrate, and the candidates
calibration  labels the sample with every candidate and compares the answers with the unpruned ones
answers      a candidate's answers, read from its output
demand       what answers must reach: agreement, accuracy, or a largest loss of accuracy
truth        the right answers, if the data set has them
budgets      agreement, accuracy and cost of one candidate
verdict      which budget is recommended, and what is undecided
cascades     the cheapest pair of keep ratios shown to meet the demand; second_looks: the labelled pairs
strata       thresholds of second looks by question type or source
summary      the printed text; command: the command line to run next
page         one HTML file
"""
