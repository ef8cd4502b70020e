"""What torchrun tells its processes, and is told by them. Needs no torch, so that --help is fast."""

import json
import os
import time
from pathlib import Path

from advgame.trainer.base.files import write_text


def is_first() -> bool:
    """True in the process that talks to the user."""
    return os.environ.get("RANK", "0") == "0"


def report_failure(message: str) -> None:
    """Puts the reason into the report that torchrun ends with."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        report = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": int(time.time())}}
        write_text(Path(file), json.dumps({"message": report}))
