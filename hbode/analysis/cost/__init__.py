"""What a solve and its gradient cost: evaluations, time and memory, against the error that is reached."""
