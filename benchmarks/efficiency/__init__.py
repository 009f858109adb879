"""What sample_efficiency.py is made of; what the peers' environments import needs numpy alone."""
