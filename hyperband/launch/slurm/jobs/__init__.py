"""One Slurm job, or array task, for each job of a trial (`--slurm-mode jobs`)."""
