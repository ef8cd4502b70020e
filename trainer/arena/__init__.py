"""A language small enough to watch the game being learned: its words, its exact judge and its warm-started players."""
