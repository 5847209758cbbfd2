"""NVFP4: the format, its kernels on CPU and GPU, and linears that compute in it."""
