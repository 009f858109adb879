"""The guide: which config id is worth a trial, learned from the losses so far, in a process of its own."""
