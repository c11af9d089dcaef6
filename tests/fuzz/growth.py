"""Whether decoding leaks: all images in one process, one after the other.

    python -m tests.fuzz.growth COUNT SEED MAX_PIXELS

prints one line of JSON: the outcomes by name, the process's memory after the first half and at the end, in bytes.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

from adafv.pipeline.images.decode import decode
from adafv.pipeline.rejects import Reject
from tests.fuzz import images


def main(count: int, seed: int, max_pixels: int) -> None:
    outcomes: Counter[str] = Counter()
    halfway = 0
    for number in range(count):
        result = decode(images.image(number, seed)[1], max_pixels)
        outcomes[result.error if isinstance(result, Reject) else "decoded"] += 1
        if number == count // 2:
            halfway = memory()
    print(json.dumps({"outcomes": dict(outcomes.most_common()), "halfway": halfway, "end": memory()}))


def memory() -> int:
    """What this process has in memory now, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return 4096 * int(file.read().split()[1])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
