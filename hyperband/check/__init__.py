"""The contract's doctor: runs a script through all that it promises and says what holds.

Owns the experiments and the verdicts on them. Must not know studies, journals or the search's loop; it starts
jobs through the same launcher, with the same command line and environment.
"""
