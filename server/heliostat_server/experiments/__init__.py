"""Experiments: who shares the server, under which terms, and which tokens are theirs."""
