"""Deciding: pure, with no clock, file, process, thread, log, print or global random state."""
