"""Run Gymnasium's own test files: ``python -m tests.demonstrations.gymnasium_suite CHECKOUT``.

CHECKOUT is a checkout of the repository of Gymnasium at the installed version. The source distribution lacks these
files, and there is no copy of them here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FILES = (
    "tests/testing_env.py",
    "tests/envs/test_envs.py",
    "tests/spaces/utils.py",
    "tests/vector/testing_utils.py",
    "tests/vector/test_vector_env.py",
)
VECTORS = "seed or partial or action_count"
"""Those of the tests of vectors that make environments by name; the others bring their own."""
CASES = {
    "FlexT2I-v0": "equal",
    "FlexT2V-v0": "equal and NEXT_STEP-True",
    "FlexT2IControl-v0": "none",
    "FlexT2VControl-v0": "none",
}


def arrange(checkout: Path, folder: Path) -> None:
    """Copy the files to where they import each other from, beside the conftest that brings FlexGym's environments."""
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkout / name, folder / name)
    shutil.copy(HERE / "gymnasium_conftest.py", folder / "conftest.py")


def run(folder: Path, name: str, compared: str) -> int:
    """Run the files on one environment and return the exit status."""
    chosen = f"test_envs or {VECTORS} or ({compared})"
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-k", chosen, "tests"]
    paths = os.pathsep.join([str(folder), str(HERE.parents[1])])
    return subprocess.run(words, cwd=folder, env={**os.environ, "FLEXGYM_ID": name, "PYTHONPATH": paths}).returncode


def main(checkout: str) -> int:
    """Run the files on all environments and return 0 if they pass on each."""
    with tempfile.TemporaryDirectory() as folder:
        arrange(Path(checkout), Path(folder))
        failed = [name for name, compared in CASES.items() if run(Path(folder), name, compared)]
    print(f"failed: {', '.join(failed)}" if failed else f"passed on {', '.join(CASES)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
