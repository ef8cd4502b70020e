"""Models that are built on the spot, by name."""

import hashlib
from pathlib import Path

from advgame.trainer.arena import language
from advgame.trainer.models.built.arena import build_attacker, build_defender
from advgame.trainer.models.built.tiny import build_tiny
from advgame.trainer.prompts.templates import TEMPLATES

BUILT = {"tiny": build_tiny, "arena-attacker": build_attacker, "arena-defender": build_defender}
"""Name -> a function that writes model, tokenizer and generation config into a folder."""


def version() -> str:
    """Changes with everything that the models are built from."""
    sources = [*Path(__file__).parent.glob("*.py"), Path(language.__file__), *(TEMPLATES / "arena").glob("*.txt")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()[:12]
