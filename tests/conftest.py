"""What every test shares: one thread, no network, fixed seeds."""

from __future__ import annotations

import os

# Set before torch, tokenizers or Ray are imported, and inherited by the processes that they start. More threads than
# cores made small tests ten times slower.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import random  # noqa: E402
import signal  # noqa: E402
from collections.abc import Iterator  # noqa: E402

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what runs in its background; some tests press Ctrl-C and would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples on every machine; the first example may have to import a library.
hypothesis.settings.register_profile("flexgym", derandomize=True, deadline=None)
hypothesis.settings.load_profile("flexgym")


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same state of the global random generators, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of its own for the tests of one file, with room for several learners and runners."""
    import ray

    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
