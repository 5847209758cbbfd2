"""Where prompts come from, and which of them a step has."""
