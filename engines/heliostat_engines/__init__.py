"""Model families, NVFP4, adapters and engine runtimes: what server and trainer share."""
