"""Learners and algorithms of a model that is replicated or sharded; checkpoints are written unsharded in both cases."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER_GROUP, DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.torch_utils import clip_gradients
from torch import Tensor

from flexgym.core.metrics import Metric, plain
from flexgym.core.sharding import copies, part_like, whole

METRICS = "flexgym"
"""Key of the metrics of an iteration in RLlib's result."""


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

    def save_to_path(self, *args: Any, **kwargs: Any) -> Any:
        """Write a checkpoint as RLlib does, gathering sharded weights first."""
        with self._gathered():
            return super().save_to_path(*args, **kwargs)

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


def _as_they_end(calls: Sequence[ray.ObjectRef]) -> Iterator[ray.ObjectRef]:
    """Yield calls in the order in which they end."""
    waiting = list(calls)
    while waiting:
        ended, waiting = ray.wait(waiting)
        yield from ended
