"""torchrun trainer/main.py [--config FILE]… [key=value …]: the same as `advgame train`."""

import sys

from advgame.trainer.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
