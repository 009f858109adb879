"""Slots of this machine's GPUs: which are free, which are shared, and what is said of them."""
