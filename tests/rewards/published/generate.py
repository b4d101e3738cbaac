"""Write the vectors of `tests.rewards.test_published`: what the published preprocessing makes of the inputs.

Runs the published code itself, so it needs torchvision, ftfy and regex, and a folder with these repositories:
``HPSv2`` (tgxs002), ``CLIP`` (openai), ``ImageReward`` (THUDM) and ``VBench`` (Vchitect). From the root of a checkout:

    python -m tests.rewards.published.generate FOLDER
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor, transforms

from tests.rewards.published.inputs import MEAN, SIDE, SIZES, STD, TEXTS, figures, fits, image

TARGET = Path(__file__).with_name("vectors.json")


def load(path: Path, name: str) -> ModuleType:
    """Import a module with its neighbors, without the imports of its package."""
    package = ModuleType(name)
    package.__path__ = [str(path.parent)]
    sys.modules[name] = package
    spec = importlib.util.spec_from_file_location(f"{name}.{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def functions(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Run only the named functions of a file whose imports cannot be met."""
    tree = ast.parse(path.read_text())
    body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    known = {
        "Compose": Compose, "Resize": Resize, "CenterCrop": CenterCrop, "ToTensor": ToTensor, "Normalize": Normalize,
        "BICUBIC": InterpolationMode.BICUBIC, "transforms": transforms,
    }  # fmt: skip
    exec(compile(ast.Module(body, []), str(path), "exec"), known)
    return known


def image_vectors(folder: Path) -> dict[str, list[list[float]]]:
    hpsv2 = load(folder / "HPSv2/hpsv2/src/open_clip/transform.py", "hpsv2_images")
    pad = hpsv2.image_transform(SIDE, is_train=False, mean=MEAN, std=STD, resize_longest_max=True)
    names = ("_convert_image_to_rgb", "_transform")
    published = {
        "clip": functions(folder / "CLIP/clip/clip.py", names)["_transform"](SIDE),
        "image_reward": functions(folder / "ImageReward/ImageReward/ImageReward.py", names)["_transform"](SIDE),
        "hpsv2": pad,
    }
    vbench = functions(folder / "VBench/vbench/utils.py", ("clip_transform",))["clip_transform"](SIDE)
    vectors = {name: [figures(run(Image.fromarray(image(*size))).numpy()) for size in SIZES if fits(name, size)]
               for name, run in published.items()}  # fmt: skip
    frames = [torch.from_numpy(image(*size).transpose(2, 0, 1).copy())[None] for size in SIZES]
    return vectors | {"vbench": [figures(vbench(frame)[0].numpy()) for frame in frames]}


def text_vectors(folder: Path) -> dict[str, Any]:
    """Return the tokens of all texts, with the part of the vocabulary and of the merges that they need."""
    clip = load(folder / "CLIP/clip/simple_tokenizer.py", "openai_clip").SimpleTokenizer()
    hpsv2 = load(folder / "HPSv2/hpsv2/src/open_clip/tokenizer.py", "hpsv2_texts").SimpleTokenizer()
    used: set[int] = set()
    for tokenizer in (clip, hpsv2):
        rank = tokenizer.bpe_ranks
        tokenizer.bpe_ranks = Recording(rank, used)
    tokens = {name: [[it.decoder[token] for token in it.encode(text)] for text in TEXTS]
              for name, it in (("clip", clip), ("hpsv2", hpsv2))}  # fmt: skip
    order = {rank: pair for pair, rank in clip.bpe_ranks.items()}
    return {"tokens": tokens, "merges": [" ".join(order[rank]) for rank in sorted(used)]}


class Recording(dict):
    """Ranks of merges that notes which ones were looked up."""

    def __init__(self, ranks: dict[tuple[str, str], int], used: set[int]) -> None:
        super().__init__(ranks)
        self._used = used

    def get(self, pair: tuple[str, str], default: float = float("inf")) -> float:
        rank = super().get(pair, default)
        if rank != default:
            self._used.add(int(rank))
        return rank


def main(folder: Path) -> None:
    vectors = {
        "made_with": {"torch": torch.__version__, "torchvision": torchvision.__version__, "numpy": np.__version__},
        "images": image_vectors(folder),
        **text_vectors(folder),
    }
    lines = json.dumps(vectors, ensure_ascii=True, indent=None, separators=(",", ":"))
    TARGET.write_text(lines.replace("],[", "],\n[") + "\n")
    print(f"{TARGET}: {TARGET.stat().st_size} bytes, {len(SIZES)} sizes, {len(TEXTS)} texts")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
