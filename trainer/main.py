"""torchrun trainer/main.py [--config FILE]… [key=value …]"""

import sys

from advgame.trainer.cli import main

if __name__ == "__main__":
    sys.exit(main())
