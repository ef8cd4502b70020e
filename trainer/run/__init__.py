"""A run: what is refused before it, the loop, and its checkpoints."""
