"""The policies: LoRA on a family's transformer, and drawing with it."""
