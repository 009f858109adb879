"""What people and programs see of a study: reads, never decides."""
