"""One command for every check: ``python -m tools.check``, or ``python -m tools.check lint types`` for some of them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tools.tables import table

ROOT = Path(__file__).resolve().parent.parent
STEPS: dict[str, tuple[str, ...]] = {
    "format": ("ruff", "format", "--check", "."),
    "lint": ("ruff", "check", "."),
    "types": ("mypy",),
    "imports": ("tools.imports",),
    "budget": ("tools.budget",),
    "language": ("tools.language",),
    "tests": ("pytest", "-n", "2", "--dist", "loadfile"),
}


def main(names: Sequence[str]) -> int:
    """Run the named steps, by default all, and continue after a failure, so that one run shows everything.

    Args:
        names: keys of `STEPS`.

    Returns:
        0 if every step passed, 1 if one failed, 2 if a name is unknown.
    """
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        print(f"unknown step {unknown[0]!r}. Known: {', '.join(STEPS)}.", file=sys.stderr)
        return 2
    rows = []
    for name in names or STEPS:
        print(f"== {name}: {' '.join(STEPS[name])}", flush=True)
        start = time.perf_counter()
        status = subprocess.run([sys.executable, "-m", *STEPS[name]], cwd=ROOT).returncode
        rows.append((name, "passed" if status == 0 else "FAILED", f"{time.perf_counter() - start:.1f} s"))
    print(table(("step", "result", "time"), rows))
    return int(any(result == "FAILED" for _, result, _ in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
