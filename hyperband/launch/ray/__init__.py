"""Ray: a driver in a process of its own, slots held by actors, and jobs at them."""
