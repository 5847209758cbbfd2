"""`heliostat demo`: a server, a training run on it, and a report."""
