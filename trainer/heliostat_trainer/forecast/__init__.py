"""What a run costs before it starts: evaluations, memory, time."""
