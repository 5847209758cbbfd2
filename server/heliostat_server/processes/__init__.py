"""Child processes, their ports, and the folder that says which run."""
