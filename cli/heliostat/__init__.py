"""The command line, and the demo built on it: the only package that may import every other."""
