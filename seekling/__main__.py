"""``python -m seekling`` is the command ``seekling``."""

import sys

from seekling.cli import main

if __name__ == "__main__":
    sys.exit(main())
