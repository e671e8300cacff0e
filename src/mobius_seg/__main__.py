"""``python -m mobius_seg``: the command line."""

import sys

from mobius_seg.cli import main

if __name__ == "__main__":
    sys.exit(main())
