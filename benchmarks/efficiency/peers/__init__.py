"""One module a peer: its own scheduler, as it is on PyPI, driven by our clock, in its own environment."""
