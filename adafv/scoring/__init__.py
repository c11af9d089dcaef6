"""How answers are judged, for the project's own measurements (`bench`) and for a user's (`calibration`). No torch.

metrics    how right an answer is, given the references
agreement  how alike two answers are
bounds     a mean and its interval, which holds also near 0 and 1
betting    lower ends of means that hold for any scores from 0 to 1
"""
