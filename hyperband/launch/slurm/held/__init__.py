"""Allocations that a search holds, with trials as steps in them (`--slurm-mode held`)."""
