#!/usr/bin/env python3
"""Golden values of the weight formats from an independent implementation: the Python package `gguf`.

    scripts/golden_quant.py > tests/golden/quant.txt

One line a row of one block: format, the block's bytes, then the f32 bits (hex, value order) of its
weights. Random blocks, then blocks whose scales are edge values. F32 is not listed: it is the identity.
MXFP4's scale 255 is left out: it is NaN by the standard, which the package does not follow.
"""
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T, quants

SEED = 20240611
# f16: zeros, smallest subnormal, largest subnormal, smallest normal, 1, largest, infinite, NaN
EDGES = [0x0000, 0x8000, 0x0001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0x7E00]
# format, type, places of the f16 scales in a block
FORMATS = [
    ("F16", T.F16, [0]),
    ("BF16", T.BF16, [0]),
    ("Q8_0", T.Q8_0, [0]),
    ("Q4_K", T.Q4_K, [0, 2]),
    ("Q2_K", T.Q2_K, [80, 82]),
    ("IQ2_XXS", T.IQ2_XXS, [0]),
    ("MXFP4", T.MXFP4, []),
    ("Q4_0", T.Q4_0, [0]),
    ("Q4_1", T.Q4_1, [0, 2]),
    ("Q5_0", T.Q5_0, [0]),
    ("Q5_1", T.Q5_1, [0, 2]),
    ("Q3_K", T.Q3_K, [108]),
    ("Q5_K", T.Q5_K, [0, 2]),
    ("Q6_K", T.Q6_K, [208]),
    ("IQ1_S", T.IQ1_S, [0]),
    ("IQ1_M", T.IQ1_M, []),
    ("IQ2_XS", T.IQ2_XS, [0]),
    ("IQ2_S", T.IQ2_S, [0]),
    ("IQ3_XXS", T.IQ3_XXS, [0]),
    ("IQ3_S", T.IQ3_S, [0]),
    ("IQ4_NL", T.IQ4_NL, [0]),
    ("IQ4_XS", T.IQ4_XS, [0]),
]


def line(name, kind, block):
    with np.errstate(all="ignore"):
        weights = quants.dequantize(block.reshape(1, -1), kind).astype(np.float32).reshape(-1)
    print(name, block.tobytes().hex(), weights.view(np.uint32).astype(">u4").tobytes().hex())


def main():
    rng = np.random.default_rng(SEED)
    print(f"# source: gguf {version()} quants.dequantize, numpy {np.__version__}; seed {SEED}")
    print("# command: scripts/golden_quant.py > tests/golden/quant.txt")
    for name, kind, places in FORMATS:
        weights, size = gguf.GGML_QUANT_SIZES[kind]
        size = size * 16 if weights == 1 else size
        draw = lambda: rng.integers(0, 256, size, dtype=np.uint8)
        for _ in range(2):
            block = draw()
            for place in places if weights > 1 else []:  # a random scale, but a finite one
                block[place + 1] &= 0xBB
            if name == "MXFP4":
                block[0] = 120
            line(name, kind, block)
        edges = EDGES if weights < 256 else EDGES[3:4] + EDGES[6:]
        for edge in edges if places else []:
            block = draw()
            for place in places:
                block[place : place + 2] = np.frombuffer(np.uint16(edge).tobytes(), np.uint8)
            line(name, kind, block)
        for e in [0, 1, 2, 127, 254] if name == "MXFP4" else []:
            block = draw()
            block[0] = e
            line(name, kind, block)


def version():
    from importlib.metadata import version as of

    return of("gguf")


if __name__ == "__main__":
    sys.exit(main())
