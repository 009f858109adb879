"""Slurm: its commands and words, its profile, and the one thread that talks to it."""
