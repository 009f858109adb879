"""Where jobs run: slots to put them on, and how they are started, adopted and stopped."""
