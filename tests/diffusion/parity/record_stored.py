"""Records what PyTorch makes of float8 and the `gguf` wheel of its blocks.

python -m tests.diffusion.parity.record_stored   # needs torch and gguf; writes references/
"""

from pathlib import Path

import numpy as np

REFERENCES = Path(__file__).parent / "references"
# Bytes in a block that hold its float16 factors: random ones would not be numbers.
_FACTORS = {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82),
            "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}  # fmt: skip


def record_float8() -> None:
    import torch

    codes = torch.arange(256, dtype=torch.uint8)
    dtypes = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
    tables = {name: codes.view(dtype).float().numpy().astype(np.float16) for name, dtype in dtypes.items()}
    np.savez_compressed(REFERENCES / "float8.npz", **tables)


def record_gguf() -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

    rng, result = np.random.default_rng(5), {}
    for name, places in _FACTORS.items():
        kind = GGMLQuantizationType[name]
        count, size_bytes = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (512 // count, size_bytes), dtype=np.uint8)
        for at in places:
            factors = rng.normal(0, 0.05, len(blocks)).astype(np.float16)
            blocks[:, at : at + 2] = factors.view(np.uint8).reshape(-1, 2)
        result[f"{name}_bytes"] = blocks
        result[name] = quants.dequantize(blocks, kind).astype(np.float32).reshape(-1)
    np.savez_compressed(REFERENCES / "gguf.npz", **result)


if __name__ == "__main__":
    record_float8()
    record_gguf()
