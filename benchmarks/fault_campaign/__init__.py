"""The fault campaign: scripts, the scene of one run, the checks after it, and the kinds of fault."""
