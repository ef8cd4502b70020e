"""torchrun trainer/main.py [--config FILE]… [key=value …]: the same as `advgame train`."""

import sys

from advgame.trainer.commands.main import main
from advgame.trainer.commands.torchrun import leave

if __name__ == "__main__":
    leave(main(["train", *sys.argv[1:]]))
