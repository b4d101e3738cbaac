"""What every test shares: one thread, no network, fixed seeds."""

from __future__ import annotations

import gc
import os

# Importing everything that is tested makes millions of objects that stay; searching them for cycles again and again,
# while they are made and in each test, took a fifth of the time. `pytest_collection_finish` switches it on.
gc.disable()

# Set before torch, tokenizers or Ray are imported, and inherited by the processes that they start. More threads than
# cores made small tests ten times slower.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import random  # noqa: E402
import signal  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator, Mapping  # noqa: E402
from pathlib import Path  # noqa: E402

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

_CPUS = 8

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what runs in its background; some tests press Ctrl-C and would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples on every machine; the first example may have to import a library.
hypothesis.settings.register_profile("flexgym", derandomize=True, deadline=None)
hypothesis.settings.load_profile("flexgym")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the order of files: xdist, where it is installed, begins with the most tests and ends with the longest."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of all later searches for cycles."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same state of the global random generators, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def own_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose modules can be imported here and in every process of Ray."""
    folder = tmp_path_factory.mktemp("modules")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


@pytest.fixture(scope="module")
def cluster(own_modules: Path) -> Iterator[None]:
    """A Ray with room for several learners and runners: one for all files, unless one leaves actors behind."""
    import ray

    if not ray.is_initialized():
        ray.init("local", num_cpus=_CPUS, include_dashboard=False, log_to_driver=False)
    yield
    if not _all_returned(ray.available_resources):
        ray.shutdown()


@pytest.fixture(scope="module")
def learner_pairs(cluster: None) -> Iterator[None]:
    """Groups of two learners keep their processes, and serve one algorithm after the other."""
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    from tests.learners import LearnerPairs

    pairs = LearnerPairs(AlgorithmConfig.build_learner_group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AlgorithmConfig, "build_learner_group", lambda config, **options: pairs.group(config, **options))
        yield
    pairs.shutdown()


def _all_returned(available: Callable[[], Mapping[str, float]], patience_s: float = 2.0) -> bool:
    """Whether no actor holds a CPU; Ray hears of the end of an actor a little later."""
    deadline = time.monotonic() + patience_s
    while available().get("CPU", 0) < _CPUS:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
