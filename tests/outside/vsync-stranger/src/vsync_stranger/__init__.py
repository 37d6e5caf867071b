"""A transport and a service by somebody else."""
