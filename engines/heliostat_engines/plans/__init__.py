"""What compiler and runtimes both read: manifests, profiles, and the tensors of adapters."""
