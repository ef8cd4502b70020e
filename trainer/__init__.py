"""The game, its players and their training."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported: the trainer shows one live view of its own
