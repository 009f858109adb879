"""hyperband: hyperparameter search for unmodified training scripts on every free GPU."""

__version__ = "0.1.0"
