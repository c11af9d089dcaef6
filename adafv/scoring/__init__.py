"""How answers are judged, for the project's own measurements (`bench`) and a user's (`calibration`). numpy only.

metrics    how right an answer is, given the references
bootstrap  intervals
"""
