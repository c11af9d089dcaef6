"""`python -m adafv`: the same as `adafv`."""

import sys

from adafv.commands import main

if __name__ == "__main__":
    sys.exit(main())
