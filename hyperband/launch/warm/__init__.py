"""Warm starts: a host under the user's interpreter that has imported ahead, and forks jobs."""
