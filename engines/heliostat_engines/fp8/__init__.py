"""FP8: the format, and linears that compute in it, on tensor cores or emulated."""
