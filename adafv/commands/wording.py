"""How a command's help calls the commands: as the command itself was called."""

from __future__ import annotations

import re

_EXAMPLE = re.compile(r"^    adafv (label|calibrate|report|export|bench)\b", re.MULTILINE)
_MENTION = re.compile(r"\badafv (label|calibrate|report|export|bench)\b")


def as_called(text: str | None, prog: str) -> str:
    """`text`, which names commands as `adafv label`; for the scripts of jobs/ as `python jobs/label.py` in an example
    and as `jobs/label.py` elsewhere.

    Args:
        prog: what runs: "adafv label", or "label.py".
    """
    if prog.startswith("adafv "):
        return text or ""
    return _MENTION.sub(r"jobs/\1.py", _EXAMPLE.sub(r"    python jobs/\1.py", text or ""))
