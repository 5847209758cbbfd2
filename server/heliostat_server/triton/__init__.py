"""The program Triton: where it is, its model repository, its log, and a client."""
