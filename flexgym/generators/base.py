"""The generator: a diffusers flow-matching pipeline as a policy over latents, composed of parts."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flexgym.core.errors import ConfigError, check_names
from flexgym.core.forking import survive_forks
from flexgym.core.pickling import drop_capturing_hooks
from flexgym.core.seeds import whole_seed
from flexgym.generators.adapter_files import read_adapters
from flexgym.generators.adapters import take_loaded
from flexgym.generators.autoencoder import Autoencoder
from flexgym.generators.checks import check_parts
from flexgym.generators.conditioning import Conditioning, with_known
from flexgym.generators.family import FIRST_FRAME, Family, FlowPipeline
from flexgym.generators.levels import noise_levels, time_steps
from flexgym.generators.placement import Placement
from flexgym.generators.prompt_encoder import PromptEncoder
from flexgym.generators.sampling import CONFIG_NAME, Sampler, Sampling, check_settings, resolve_sampling
from flexgym.generators.saving import save_adapter, save_pipeline, write_folder
from flexgym.generators.schedulers import ExportedScheduler, own_solver
from flexgym.generators.velocity import check_effect, predict
from flexgym.generators.weights import Weights
from flexgym.types import Prompt

survive_forks()


class FlowGenerator:
    """A diffusers flow-matching pipeline as a policy over latents.

    Sampling with the Euler step gives what the pipeline's ``__call__`` gives, to the bit, where its scheduler takes
    Euler steps, see `load_generator`. The modules are frozen and in evaluation mode until `make_trainable`. Adapters
    that the pipeline has loaded are merged into its weights. `load_generator` and `wrap_pipeline` make one.

    Args:
        pipe: the loaded pipeline.
        family: the kind of the pipeline.
        checkpoint: sampling defaults that came with the weights; they override those of the pipeline's ``__call__``.
        settings: the user's settings; they override both.

    Attributes:
        pipe: the pipeline.
        family: how the pipeline works under these settings.
        text: encodes prompts and caches them.
        autoencoder: decodes and encodes samples.
        weights: the trainable parameters, and named copies of them.
        placement: devices of the modules.
        denoisers: the modules that predict the velocity, by their name in the pipeline.
        dtype: precision of the transformer.
        settings: how it samples.
        latent_shape: shape of one sample's latents.
        sample_shape: shape of one decoded sample: ``(H, W, 3)`` or ``(F, H, W, 3)``.
        checkpoint_folder: the folder it was loaded from; None for a pipeline that was handed over.

    Raises:
        GeneratorError: the pipeline cannot serve, or has adapters loaded that cannot be merged into its weights.
        ConfigError: for a size or a number of frames that the autoencoder cannot make.
        UnknownNameError: for an unknown setting.
    """

    def __init__(
        self,
        pipe: FlowPipeline,
        family: type[Family],
        *,
        checkpoint: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        check_parts(pipe)
        family.check_pipeline(pipe)
        merged = take_loaded(_modules(pipe))
        for module in _modules(pipe).values():
            module.eval().requires_grad_(False)
        pipe.set_progress_bar_config(disable=True)
        family.set_up(pipe)
        chosen = resolve_sampling(family.call_defaults(pipe), checkpoint or {}, settings or {})
        made = family(pipe, chosen)
        self.pipe = pipe
        self.dtype = made.dtype
        self.checkpoint_folder: Path | None = None
        self.placement = Placement(pipe)
        self.denoisers: Mapping[str, nn.Module] = made.denoisers()
        # names of parameters begin with their module's only where there are several
        self._prefixes = {name: "" if each is made.transformer else name for name, each in self.denoisers.items()}
        modules = {prefix: self.denoisers[name] for name, prefix in self._prefixes.items()}
        self.weights = Weights(modules, lora_targets=made.lora_targets)
        self.weights.note_merged({prefix: merged.get(name, ()) for name, prefix in self._prefixes.items()})
        self.text = PromptEncoder(made, self.placement)
        self.autoencoder = Autoencoder(made, self.placement)
        self._take(made)
        check_effect(made, settings or {})

    def _take(self, family: Family) -> None:
        self.family = family
        self.settings: Sampling = family.settings
        self.latent_shape, self.sample_shape = family.latent_shape, family.sample_shape
        self.text, self.autoencoder = self.text.view(family), self.autoencoder.view(family)
        self._sigmas = noise_levels(family)

    def __deepcopy__(self, memo: dict[int, Any]) -> FlowGenerator:
        """Return the generator itself: weights are shared and never duplicated by accident.

        Gymnasium copies the arguments of an environment deeply whenever its spec is read.
        """
        return self

    def __getstate__(self) -> dict[str, Any]:
        for module in self.pipe.components.values():
            if isinstance(module, nn.Module):
                drop_capturing_hooks(module)
        return dict(vars(self))

    def with_settings(self, **settings: Any) -> FlowGenerator:
        """Return a view that samples in another way and shares every module, all weights and the caches.

        Args:
            settings: see `Sampling`; those not given (or None) stay.

        Returns:
            The view; the generator itself when nothing changes.

        Raises:
            UnknownNameError: for an unknown setting.
            ConfigError: for a value that cannot work.
        """
        check_settings(settings, "sampling setting")
        chosen = resolve_sampling(vars(self.settings), settings)
        if chosen == self.settings:
            return self
        view = copy.copy(self)
        view._take(self.family.sampling(chosen))
        check_effect(view.family, settings)
        return view

    @property
    def device(self) -> torch.device:
        """The device of the transformer."""
        return self.placement.device

    @property
    def modality(self) -> str:
        """Kind of sample that the generator makes: ``"image"`` or ``"video"``."""
        return self.family.modality

    @property
    def takes_first_frame(self) -> bool:
        """True where every prompt must carry the image that its video begins with."""
        return FIRST_FRAME in self.family.image_roles

    # --- sampling ----------------------------------------------------------------------------------------------------

    def condition(self, prompts: Sequence[str | Prompt], *, guidance: float | None = None) -> Conditioning:
        """Encode prompts, to be held for an episode.

        Args:
            prompts: P texts, or prompts with their first frames for generators from image to video.
            guidance: the scale that `velocity` will be called with; None is that of the settings.

        Returns:
            P rows on the generator's device.

        Raises:
            ConfigError: there is no prompt, or one after ``text.release`` that was not encoded before; a prompt lacks
                its first frame, or has one that would be ignored.
        """
        return self.text.condition(prompts, guided=self._family_at(guidance).guided)

    def sigmas(self) -> Tensor:
        """Return the noise levels of a run, ``[T + 1]`` float32 on the CPU, from 1 to 0."""
        return self._sigmas.clone()

    def initial_latents(self, count: int, seed: int | torch.Generator) -> Tensor:
        """Draw Gaussian noise to start from, the same on every device.

        Args:
            count: rows B.
            seed: seed of the noise, or a CPU generator to draw it from.

        Returns:
            float32 ``[B, ...]``.
        """
        source = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(whole_seed(seed))
        return torch.randn(count, *self.latent_shape, generator=source, dtype=torch.float32).to(self.device)

    def starting_latents(self, noise: Tensor, prompts: Sequence[str | Prompt]) -> Tensor:
        """Return the latents that sampling starts from: the noise, mixed with the images where the family does so.

        Args:
            noise: ``[B, ...]``, see `initial_latents`.
            prompts: B of them.

        Returns:
            Latents of the same shape.
        """
        if self.family.noise_share == 1.0:
            return noise
        images = [next(iter(each.values())) for each in self.text.encode_images(prompts)]
        share = torch.tensor([self.family.noise_share], device=noise.device)  # float32, as pipelines compute it
        return noise * share + torch.cat(images) * (1 - share)

    def with_first_frame(self, latents: Tensor, conditioning: Conditioning) -> Tensor:
        """Put the latents of the first frame in their place, where they are known; other latents come back unchanged.

        The latents that are replaced have no influence on any velocity. Samples are decoded from what this returns.

        Args:
            latents: ``[B, C, F, H, W]``.
            conditioning: B rows.

        Returns:
            Latents of the same shape.
        """
        return with_known(latents, conditioning)

    def velocity(
        self,
        latents: Tensor,
        sigma: Tensor,
        conditioning: Conditioning,
        *,
        guidance: float | None = None,
        micro_batch: int | None = None,
    ) -> Tensor:
        """Predict the velocity ``noise - clean``, guidance included.

        Rollout and replay both call this. Matrix kernels may round differently for another number of rows, so the two
        are equal to the bit when they use the same ``micro_batch``: a group is the natural one.

        Args:
            latents: ``[B, ...]``.
            sigma: noise level of each row, ``[B]``; rows may differ.
            conditioning: B rows.
            guidance: guidance scale, for models with embedded guidance the input of the transformer; None takes
                ``guidance_scale`` of the settings.
            micro_batch: rows of one forward; B must be a multiple of it. None takes all rows at once.

        Returns:
            float32 ``[B, ...]``; gradients flow to the trainable parameters.

        Raises:
            ConfigError: the numbers of rows do not fit, or the prompts were encoded for no guidance.
        """
        rows = len(latents)
        size = micro_batch or max(rows, 1)
        if not rows == len(sigma) == len(conditioning) or rows % size:
            raise ConfigError(
                f"expected as many latents as noise levels and prompts, and a multiple of {size} rows, got {rows},"
                f" {len(sigma)} and {len(conditioning)} (Conditioning.repeat makes a row for each sample)"
            )
        family = self.family if guidance is None else self._family_at(guidance)
        times = time_steps(family, sigma.to(latents.device, torch.float32))
        if rows <= size:
            return predict(family, latents, times, conditioning=conditioning)
        blocks = [slice(start, start + size) for start in range(0, rows, size)]
        return torch.cat(
            [predict(family, latents[at], times[at], conditioning=conditioning.index(at)) for at in blocks]
        )

    def _family_at(self, guidance: float | None) -> Family:
        return self.family if guidance is None else self.family.guided_by(guidance)

    def decode(self, latents: Tensor, chunk: int | None = None) -> NDArray[np.uint8]:
        """Decode clean latents to samples, see `Autoencoder.decode`.

        Args:
            latents: ``[B, ...]``.
            chunk: rows per call of the autoencoder; None takes about four million pixels.

        Returns:
            uint8 ``[B, H, W, 3]`` or ``[B, F, H, W, 3]``.
        """
        return self.autoencoder.decode(latents, chunk)

    def encode(self, samples: NDArray[np.uint8] | Tensor) -> Tensor:
        """Encode samples to clean latents, see `Autoencoder.encode`.

        Args:
            samples: uint8 ``[B, H, W, 3]`` or ``[B, F, H, W, 3]`` of `sample_shape`.

        Returns:
            float32 ``[B, ...]`` on the generator's device.

        Raises:
            ConfigError: the samples have another shape or type.
        """
        return self.autoencoder.encode(samples)

    # --- training ----------------------------------------------------------------------------------------------------

    def make_trainable(
        self,
        mode: str = "lora",
        *,
        lora: Mapping[str, Any] | None = None,
        adapter: str | Path | None = None,
        adapter_as: str = "start",
    ) -> None:
        """Choose the parameters that train, and the adapter that training starts from.

        Args:
            mode: ``"lora"`` or ``"full"``.
            lora: arguments of `Weights.add_lora` by name.
            adapter: an adapter of diffusers, peft or kohya's scripts, see `read_adapters`; None for none.
            adapter_as: ``"start"`` to train that adapter itself, with its rank, scale and layers; ``"merge"`` to add it
                to the weights and train on top of it. With either, the reference is the policy with the adapter.

        Raises:
            CheckpointError: there is no such adapter, or it does not fit.
            ConfigError: settings that cannot work together.
            GeneratorError: something trains already.
        """
        check_names("mode", [mode], ("lora", "full"))
        check_names("adapter_as", [adapter_as], ("start", "merge"))
        settings = dict(lora or {})
        found = {} if adapter is None else read_adapters(adapter, self.pipe, self.denoisers)
        if found and adapter_as == "merge":
            self.weights.merge({self._prefixes[name]: [each] for name, each in found.items()})
        if found and adapter_as == "start":
            if mode == "full":
                raise ConfigError("full training has no adapter: set adapter_as=merge to start from the merged weights")
            if settings.pop("seed", 0):
                raise ConfigError("an adapter to start from has its values: leave out lora.seed")
            self.weights.continue_lora({self._prefixes[name]: each for name, each in found.items()}, **settings)
        elif mode == "lora":
            self.weights.add_lora(**settings)
        else:
            self.weights.train_full()

    def keep_adapter(self, name: str, adapter: str | Path) -> None:
        """Keep a named copy of the trainable parameters that computes what the frozen model does with an adapter.

        Args:
            name: name of the copy, for ``weights.using``.
            adapter: see `make_trainable`.

        Raises:
            CheckpointError: there is no such adapter, or it does not fit the model.
            ConfigError: the parameters that train cannot express it.
            GeneratorError: the weights are frozen.
        """
        found = read_adapters(adapter, self.pipe, self.denoisers)
        self.weights.keep_adapter(name, {self._prefixes[each]: value for each, value in found.items()})

    # --- saving ------------------------------------------------------------------------------------------------------

    def save(
        self, folder: str | Path, *, unsharded: Mapping[str, Any] | None = None, sampler: Sampler = "rollout"
    ) -> Path:
        """Save the trained weights in the format of diffusers, so that the stock pipeline loads them.

        An adapter becomes ``pytorch_lora_weights.safetensors``, that of a second transformer in the subfolder
        ``transformer_2``; otherwise the complete pipeline is written, with ``generation_config.json``. An adapter
        contains those that were merged below it: the stock pipeline with it is the policy. Either comes with the
        scheduler that samples as the sampler does, in ``scheduler``; an adapter of a pipeline with Euler steps needs
        none. The folder appears only once it is complete.

        Args:
            folder: a folder that does not exist yet.
            unsharded: modules to write in place of `denoisers` that are sharded, by their name.
            sampler: how samples were verified, see `flexgym.algorithm.rollout.sample`.

        Returns:
            The folder.

        Raises:
            CheckpointError: the folder exists.
        """
        scheduler = ExportedScheduler.of(self.pipe.scheduler, self._sigmas, sampler)
        return write_folder(Path(folder), lambda partial: self._write(partial, unsharded or {}, scheduler))

    def _write(self, folder: Path, unsharded: Mapping[str, Any], scheduler: ExportedScheduler) -> None:
        if self.weights.mode == "lora":
            for name, module in self.denoisers.items():
                target = folder if module is self.family.transformer else folder / name
                below = self.weights.merged(self._prefixes[name])
                save_adapter(self.pipe, unsharded.get(name, module), target, below=below)
            if own_solver(self.pipe.scheduler):
                scheduler.write(folder / "scheduler")
            return
        source, replaced = self.checkpoint_folder, {**unsharded, "scheduler": scheduler.scheduler}
        save_pipeline(self.pipe, folder, replaced=replaced, released=self.text.released, source=source)
        scheduler.write(folder / "scheduler")
        (folder / CONFIG_NAME).write_text(json.dumps(vars(self.settings), indent=2) + "\n", encoding="utf-8")


def _modules(pipe: FlowPipeline) -> dict[str, nn.Module]:
    """Return the modules among the components of a pipeline, by name."""
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
