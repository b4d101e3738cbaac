"""Learners and algorithms of a model that is whole on each learner or cut over all: checkpoints show no difference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

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
    """AdamW over what trains of one module, which has its `Weights` as ``weights``.

    The config says by ``shards`` whether the model is cut; who derives from this cuts it in ``_map_module_to_device``.
    """

    config: Any

    def build(self) -> None:
        """Make module and optimiser."""
        self._gathered: dict[str, Any] | None = None
        super().build()

    def _make_modules_ddp_if_necessary(self) -> None:
        """A sharded model exchanges its gradients itself."""
        if not self.config.shards:
            super()._make_modules_ddp_if_necessary()

    @property
    def plain_module(self) -> Any:
        """The module without any wrapper for distribution."""
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    @property
    def rank(self) -> int:
        """Of this learner, from 0."""
        return torch.distributed.get_rank() if self.config.num_learners > 1 else 0

    def get_parameters(self, module: Any) -> list[torch.nn.Parameter]:
        """Only what trains; the frozen rest needs no optimiser state."""
        return [parameter for parameter in module.parameters() if parameter.requires_grad]

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """AdamW over what trains."""
        params = self.get_parameters(self._module[module_id])
        optimizer = torch.optim.AdamW(params, betas=self.config.betas, weight_decay=self.config.weight_decay)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=params, lr_or_lr_schedule=config.lr)

    def _get_clip_function(self) -> Any:
        return clip_sharded_gradients if self.config.shards else super()._get_clip_function()

    # --- state -------------------------------------------------------------------------------------------------------

    def gather_state(self) -> None:
        """Collect what a sharded model's checkpoint holds on the first learner; every learner must call it.

        RLlib asks the first learner alone for its state, which cannot ask the others then.
        """
        if not self.config.shards:
            return
        keep = not self.rank
        self.plain_module.weights.gather(keep=keep)
        self._gathered = self._optimizer_copies(keep=keep)

    def release_state(self) -> None:
        """Forget what was gathered."""
        self.plain_module.weights.release()
        self._gathered = None

    def _get_optimizer_state(self) -> dict[str, Any]:
        """As copies on the CPU; RLlib's own method makes them numpy's, which has no bfloat16."""
        return self._optimizer_copies() if self._gathered is None else self._gathered

    def _optimizer_copies(self, *, keep: bool = True) -> dict[str, Any]:
        found = {}
        for name, optimizer in self._named_optimizers.items():
            state = optimizer.state_dict()
            numbers = {number: copies(values.items(), keep=keep) for number, values in state["state"].items()}
            found[name] = {"module_id": self._optimizer_name_to_module[name], "state": {**state, "state": numbers}}
        return found

    def _set_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Put a state back; of whole numbers every learner takes its part."""
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
    """Checkpoints of a model that is cut over the learners are those of a whole one.

    Attributes:
        row: metrics of the last iteration by name.
    """

    row: Mapping[str, Metric | float] = {}

    def report(self, row: Mapping[str, Metric | float]) -> None:
        """Report the metrics of an iteration: as `row`, and as numbers in RLlib's result under `METRICS`."""
        self.row = dict(row)
        for name, value in row.items():
            self.metrics.log_value((METRICS, name), plain(value), window=1)

    def on_learners(self, call: Callable[[Any], Any]) -> list[Any]:
        """What a call gives on each learner, in their order.

        Raises:
            RayTaskError: what the call raised on a learner, which is of that error's own type as well. The learner goes
                on to be asked.
        """
        results = sorted(self.learner_group.foreach_learner(call), key=lambda result: result.actor_id or 0)
        failed = [result for result in results if not result.ok]
        for result in failed:
            if isinstance(result.get(), RayTaskError):  # RLlib takes any error for that of a lost process
                self.learner_group._worker_manager.set_actor_state(result.actor_id, healthy=True)
        if failed:
            raise failed[0].get()
        return [result.get() for result in results]

    def save_to_path(self, *args: Any, **kwargs: Any) -> Any:
        """Write a checkpoint, see RLlib's method."""
        with self._gathered():
            return super().save_to_path(*args, **kwargs)

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """RLlib's state."""
        asked = self._check_component(COMPONENT_LEARNER_GROUP, components, not_components)
        with self._gathered() if asked else contextlib.nullcontext():
            return super().get_state(components, not_components=not_components, **kwargs)

    @contextlib.contextmanager
    def _gathered(self) -> Iterator[None]:
        """The first learner, whom RLlib asks alone, has the parts of all others where the model is sharded."""
        self.on_learners(lambda learner: learner.gather_state())
        try:
            yield
        finally:
            self.on_learners(lambda learner: learner.release_state())


def clip_sharded_gradients(gradients: dict[Any, Tensor], **limits: Any) -> Tensor | None:
    """RLlib's clipping, whose norm is told as a plain number by all learners alike."""
    norm = clip_gradients(gradients, **limits)
    return None if norm is None else whole(norm)
