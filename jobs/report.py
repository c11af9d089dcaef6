"""The same as `adafv report`, for a checkout and for Ray jobs whose working directory is one."""

import sys
from pathlib import Path

try:
    from adafv.commands.report import main
except ModuleNotFoundError:  # adafv isn't installed, and this file's checkout is it
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from adafv.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
