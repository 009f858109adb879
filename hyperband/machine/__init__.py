"""This machine: its GPUs, the locks on them, and processes that start, live and end."""
