"""Learners and algorithms of a model that is replicated or sharded; checkpoints are written unsharded in both cases."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import ray
import torch
from ray.exceptions import RayTaskError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER_GROUP, DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.torch_utils import clip_gradients
from torch import Tensor

from flexgym.core.errors import CheckpointError
from flexgym.core.metrics import Metric, plain
from flexgym.core.sharding import copies, part_like, whole
from flexgym.core.state_files import STATE, TENSORS, read_state, write_state
from flexgym.rllib.transfer import collect, deliver

METRICS = "flexgym"
"""Key of the metrics of an iteration in RLlib's result."""
LEARNER = "learner"
"""Folder of a checkpoint of an algorithm that holds the state of its learners."""
RANDOM = "random"
"""Key of the random states of all learners, by rank."""
STATE_FILES = (STATE, TENSORS, f"{LEARNER}/{STATE}", f"{LEARNER}/{TENSORS}")
"""Files of a checkpoint of an algorithm."""


class ShardedLearner(TorchLearner):
    """Learner with AdamW over the trainable parameters of one module, which has its `Weights` as ``weights``.

    The config says by ``shards`` whether the model is sharded; a subclass shards it in ``_map_module_to_device``.
    """

    config: Any

    def build(self) -> None:
        """Make module and optimizer."""
        self._gathered: dict[str, Any] | None = None
        super().build()

    def _make_modules_ddp_if_necessary(self) -> None:
        """Wrap the module for data parallelism, unless it is sharded and exchanges its gradients itself."""
        if not self.config.shards:
            super()._make_modules_ddp_if_necessary()

    @property
    def plain_module(self) -> Any:
        """The module without any wrapper for distribution."""
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    @property
    def rank(self) -> int:
        """Rank of this learner, from 0."""
        return torch.distributed.get_rank() if self.config.num_learners > 1 else 0

    def get_parameters(self, module: Any) -> list[torch.nn.Parameter]:
        """Return the trainable parameters; frozen ones need no optimizer state."""
        return [parameter for parameter in module.parameters() if parameter.requires_grad]

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Register AdamW over the trainable parameters."""
        params = self.get_parameters(self._module[module_id])
        optimizer = torch.optim.AdamW(params, betas=self.config.betas, weight_decay=self.config.weight_decay)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=params, lr_or_lr_schedule=config.lr)

    def _get_clip_function(self) -> Any:
        return clip_sharded_gradients if self.config.shards else super()._get_clip_function()

    # --- state -------------------------------------------------------------------------------------------------------

    def save_state(self, folder: Path) -> None:
        """Write the state of `get_state` into a folder; the first learner alone writes."""
        if not self.rank:
            write_state(folder, self.get_state())

    def load_state(self, folder: Path, random: Mapping[str, Any] | None) -> None:
        """Restore a state of `save_state`.

        Args:
            folder: where it was written.
            random: result of `random_state` on this rank; None leaves the generators as they are.

        Raises:
            CheckpointError: it cannot be read or belongs to another model.
        """
        self._weights_seq_no = 0  # RLlib ignores weights that are not newer than its own
        self.set_state(read_state(folder))
        if random is not None:
            torch.set_rng_state(random["cpu"])
            if self._device.type == "cuda" and random["device"] is not None:
                torch.cuda.set_rng_state(random["device"], self._device)

    def random_state(self) -> dict[str, Tensor | None]:
        """Return the states of torch's random generators, which dropout draws from."""
        on_device = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return {"cpu": torch.get_rng_state(), "device": on_device}

    def gather_state(self) -> None:
        """Gather a sharded model's checkpoint on the first learner; every learner must call it.

        RLlib later asks the first learner alone for its state, and then the others take no part.
        """
        if not self.config.shards:
            return
        keep = not self.rank
        self.plain_module.weights.gather(keep=keep)
        self._gathered = self._optimizer_copies(keep=keep)

    def release_state(self) -> None:
        """Free the gathered state."""
        self.plain_module.weights.release()
        self._gathered = None

    def _get_optimizer_state(self) -> dict[str, Any]:
        """Return copies on the CPU; RLlib's own method converts to NumPy, which has no bfloat16."""
        return self._optimizer_copies() if self._gathered is None else self._gathered

    def _optimizer_copies(self, *, keep: bool = True) -> dict[str, Any]:
        found = {}
        for name, optimizer in self._named_optimizers.items():
            state = optimizer.state_dict()
            numbers = {number: copies(values.items(), keep=keep) for number, values in state["state"].items()}
            found[name] = {"module_id": self._optimizer_name_to_module[name], "state": {**state, "state": numbers}}
        return found

    def _set_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state; each learner takes its shard of unsharded values."""
        for name, entry in state.items():
            optimizer = self._named_optimizers[name]
            params = [param for group in optimizer.param_groups for param in group["params"]]
            numbers = {
                number: {
                    key: part_like(value, params[number]) if value.ndim else value for key, value in values.items()
                }
                for number, values in entry["state"]["state"].items()
            }
            optimizer.load_state_dict({**entry["state"], "state": numbers})


class ShardedAlgorithm(Algorithm):
    """Base of the algorithms whose model may be sharded over the learners.

    Attributes:
        row: metrics of the last iteration by name.
    """

    row: Mapping[str, Metric | float] = {}

    def report(self, row: Mapping[str, Metric | float]) -> None:
        """Report the metrics of an iteration: as `row`, and as numbers in RLlib's result under `METRICS`."""
        self.row = {name: value if isinstance(value, Metric) else float(value) for name, value in row.items()}
        for name, value in self.row.items():
            self.metrics.log_value((METRICS, name), plain(value), window=1)

    def on_learners(self, call: Callable[[Any], Any]) -> list[Any]:
        """Call a function with each learner and return the results, ordered by learner.

        Raises:
            RayTaskError: the error of a learner, which is also an instance of the original type. The learner stays in
                the group.
            RayActorError: a learner was lost.
        """
        if self.learner_group.is_local:
            return [call(self.learner_group._learner)]
        # Not through RLlib: it waits for all learners, also where they wait for a lost one in a collective operation,
        # and leaves out a lost one afterwards.
        calls = [worker.apply.remote(call) for worker in self.learner_group._workers]
        results, failures = {}, {}
        for finished in _as_they_end(calls):
            try:
                results[finished] = ray.get(finished)
            except RayTaskError as error:
                failures[finished] = error
        for failed in calls:
            if failed in failures:
                raise failures[failed]
        return [results[each] for each in calls]

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def save_to_path(self, path: str | Path | None = None, **ignored: Any) -> str:
        """Write a checkpoint as JSON and safetensors, see `STATE_FILES`; the learners may run anywhere.

        Args:
            path: folder to write to; None makes a temporary one.
            **ignored: arguments of RLlib for its own format, which is pickled.

        Returns:
            The folder.
        """
        folder = Path(tempfile.mkdtemp() if path is None else path)
        others = [name for name, _ in self.get_checkpointable_components()]
        state = self.get_state(not_components=others)
        with self._gathered():
            collect(self.on_learners, lambda learner, place: learner.save_state(place), folder / LEARNER)
            write_state(folder, {**state, RANDOM: self.on_learners(lambda learner: learner.random_state())})
        return str(folder)

    def restore_from_path(self, path: str | Path, *ignored: Any, **unused: Any) -> None:
        """Restore a checkpoint of `save_to_path` into an algorithm of the same config.

        Args:
            path: its folder.
            *ignored: arguments of RLlib for its own format.
            **unused: arguments of RLlib for its own format.

        Raises:
            CheckpointError: it cannot be read, belongs to another model, or is pickled.
        """
        folder = Path(path)
        check_not_pickled(folder)
        state = read_state(folder)
        random = state.pop(RANDOM, [])
        known = random if len(random) == max(1, self.config.num_learners) else [None] * max(1, self.config.num_learners)
        with deliver(self.on_learners, folder / LEARNER) as places:
            self.on_learners(lambda learner: learner.load_state(Path(places[learner.rank]), known[learner.rank]))
        self.set_state(state)

    @classmethod
    def from_checkpoint(cls, path: str | Path, *ignored: Any, config: Any = None, **unused: Any) -> Self:
        """Build an algorithm and restore a checkpoint.

        Args:
            path: folder of the checkpoint.
            *ignored: arguments of RLlib for its own format.
            config: the config that the checkpoint was made with. A checkpoint does not hold it: RLlib would pickle it,
                and a pickle can run code when it is read.
            **unused: arguments of RLlib for its own format.

        Raises:
            CheckpointError: no config, or see `restore_from_path`.
        """
        if config is None:
            raise CheckpointError(
                f"{path}: a checkpoint holds no config: build the algorithm from its recipe and call"
                " restore_from_path, or name the config: from_checkpoint(path, config=config)"
            )
        algorithm: Self = config.copy(copy_frozen=False).build_algo()
        algorithm.restore_from_path(path)
        return algorithm

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return RLlib's state, gathering sharded weights first."""
        asked = self._check_component(COMPONENT_LEARNER_GROUP, components, not_components)
        with self._gathered() if asked else contextlib.nullcontext():
            return super().get_state(components, not_components=not_components, **kwargs)

    @contextlib.contextmanager
    def _gathered(self) -> Iterator[None]:
        """Keep the unsharded state on the first learner inside this context; RLlib asks that learner alone."""
        self.on_learners(lambda learner: learner.gather_state())
        try:
            yield
        finally:
            self.on_learners(lambda learner: learner.release_state())


def clip_sharded_gradients(gradients: dict[Any, Tensor], **limits: Any) -> Tensor | None:
    """Clip gradients as RLlib does, and return their norm over all shards as an ordinary tensor."""
    norm = clip_gradients(gradients, **limits)
    return None if norm is None else whole(norm)


def check_not_pickled(folder: Path) -> None:
    """Raise an error for a checkpoint of RLlib's own format, without opening it.

    Raises:
        CheckpointError: the folder holds pickled state.
    """
    if not (folder / STATE).exists() and any(folder.rglob("*.pkl")):
        raise CheckpointError(
            f"{folder}: this checkpoint holds pickled state, as earlier versions of FlexGym wrote it. A pickle can run"
            " code when it is read, so it is not opened: start a new run; the trained weights beside it can still be"
            " loaded"
        )


def _as_they_end(calls: Sequence[ray.ObjectRef]) -> Iterator[ray.ObjectRef]:
    """Yield calls in the order in which they end."""
    waiting = list(calls)
    while waiting:
        ended, waiting = ray.wait(waiting)
        yield from ended
