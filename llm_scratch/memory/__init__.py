"""What a run will need, what it needed, and what to do where that does not fit."""
