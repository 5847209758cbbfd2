"""Whose work comes next."""
