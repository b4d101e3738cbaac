"""Images and texts on which preprocessing is compared with the published code; needs nothing but numpy."""

from __future__ import annotations

import numpy as np

SIDE = 224
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# Height and width. In many, the margin of the center crop is odd, in both ways that rounding can go.
SIZES = [
    (224, 224), (225, 224), (224, 226), (227, 224), (224, 231), (448, 448), (223, 223), (5, 7), (7, 5), (1, 300),
    (300, 1), (32, 97), (97, 32), (64, 64), (100, 151), (151, 100), (160, 224), (224, 160), (333, 500), (500, 333),
    (511, 513), (513, 511), (256, 384), (384, 256), (240, 416), (480, 832), (832, 480), (544, 960), (832, 1216),
    (704, 1280), (1216, 832), (199, 601), (601, 199), (222, 446), (446, 222), (37, 41), (341, 256), (256, 341),
    (640, 427), (427, 640),
]  # fmt: skip

TEXTS = [
    "a photo of a cat",
    "",
    "  \t\n ",
    "A  Photo\tof\na\r\ncat ",
    "“Curly quotes” and ‘single’ ones",
    "bread &amp; butter",
    "bread &amp;amp;amp; butter",
    "2 &lt; 3 &gt; 1 &quot;quoted&quot; &#39;single&#39;",
    "&frac12; cup, &copy; 2023, &#x1F600; &#x301;",
    "caf\u00e9 and cafe\u0301",
    "a&#x301; decomposed by an entity",
    "caf\u00c3\u00a9 with broken encoding",
    "It\u00e2\u20ac\u2122s mojibake",
    "sch\u00c3\u00b6n &Atilde;&para; twice",
    "\ufb01nal \ufb02oor ligatures",
    "\uff26\uff55\uff4c\uff4c \uff57\uff49\uff44\uff54\uff48 \uff11\uff12\uff13\u3000\uff01",
    "\uff76\uff80\uff76\uff85 halfwidth",
    "\u4e00\u53ea\u7ea2\u8272\u7684\u732b",
    "\u0642\u0637\u0629 \u062d\u0645\u0631\u0627\u0621 \u0664\u066b\u0665",
    "\u0e41\u0e21\u0e27\u0e2a\u0e35\u0e41\u0e14\u0e07",
    "\u0915\u094d\u0937 \u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 family \U0001f1e9\U0001f1ea flag \u2764\ufe0f",
    "\u0130stanbul, \u00df, \u01c5, \u017f, \u03a3\u03a3",
    "\u00bd \u00b2\u00b3 \u2167 \u2460",
    "it's I'LL you'Re THEY'VE d'accord 'tis",
    "don\u2019t we\u2019ll",
    "10,000.50 x 3/4 -- 1e-5",
    "terminal \x1b[31mred\x1b[0m and \x07 bell",
    "separators \x1c \x1d \x85 \u2028 \u2029 \u00a0 \u200b end",
    "\ufeffmark of byte order",
    "zero\x00byte and \x7f delete",
    "lone \ud83d surrogate \udc00",
    "paired \ud83d\ude00 surrogates",
    "<|startoftext|> a cat <|endoftext|> a dog",
    "<start_of_text> a cat <END_OF_TEXT> a dog",
    "&lt;|endoftext|&gt; and &lt;end_of_text&gt;",
    "<|endoftext |> <|start",
    "!!!???...,,,;;; ((([[[{{{ %%% ### @@@",
    "snake_case and kebab-case and CamelCase",
    "<b>bold</b> <br/> text < 5 & more",
    "a" * 300,
    "word " * 100,
    "a red cube next to a blue sphere, 8k, highly detailed, trending, masterpiece, best quality " * 4,
    "\u00bfQu\u00e9 tal? \u00a1Ol\u00e9! \u00ab guillemets \u00bb \u201elow\u201c",
    "e\u0301\u0302\u0303 stacked z\u0336\u0336 marks",
]


def image(height: int, width: int) -> np.ndarray:
    """Return a soft image with noise and hard edges, uint8 ``[H, W, 3]``, the same on every machine."""
    rng = np.random.default_rng([height, width])
    noise = rng.integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    stripes = (rows // 3 + columns // 5 + np.arange(3)) % 2 * 255
    slope = (rows * 255 // max(height - 1, 1) + columns * 255 // max(width - 1, 1)) // 2
    return ((noise.astype(int) + stripes + 2 * slope) // 4).astype(np.uint8)


def figures(pixels: np.ndarray) -> list[float]:
    """Return mean, deviation and 14 evenly spaced values of normalized pixels ``[3, S, S]``."""
    flat = pixels.astype(np.float64).ravel()
    chosen = flat[np.linspace(0, flat.size - 1, 14).astype(int)]
    return [round(float(value), 6) for value in (flat.mean(), flat.std(), *chosen)]


def fits(name: str, size: tuple[int, int]) -> bool:
    """Return False for the sizes that the published code of HPSv2 cannot score: not padded, or shrunk to nothing."""
    longest, shortest = max(size), min(size)
    return name != "hpsv2" or (longest == shortest or (longest != SIDE and round(shortest * SIDE / longest) > 0))
