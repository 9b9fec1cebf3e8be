"""How much memory a picture needs, and whether this machine has it, estimated before anything is loaded.

MLX's own limit is advisory, and an engine whose memory has run out loses its model: a check beforehand helps.

Weights are counted from the files' headers. The networks' activations were measured on the CPU
and is scaled by pixels and channels: within 11 % of the peaks of whole pictures with Stable Diffusion
1.5, SDXL Turbo and FLUX.1 (`python -m benchmarks.memory`; docs/models.md). Not measured on Metal
and CUDA.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swiftai_nb.core.errors import InsufficientMemoryError, InvalidModelFilesError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.core.machine import MemoryPolicy, available_memory_bytes
from swiftai_nb.model_files.control_files import ControlFiles
from swiftai_nb.model_files.families import INSTRUCT_PIX2PIX
from swiftai_nb.model_files.gguf import QUANTIZED, packed_bits
from swiftai_nb.model_files.model_folder import ModelFolder
from swiftai_nb.model_files.safetensors_headers import StoredTensor

# Per channel of the first level: of the UNet by latent and picture of the batch, of the decoder by pixel.
_UNET_FLOATS, _DECODER_FLOATS = 66, 13
_UNET_FLOATS_COMPILED, _DECODER_FLOATS_COMPILED = 36, 5
_TEXT_TOKENS = 512
_CONTROL_SHARE = 0.25  # of the denoiser's, for what a ControlNet adds to it; not measured
_PROCESS_BYTES = 150_000_000
_LARGE_WEIGHT = 1 << 17
_GROUP = 64  # quantized weights that share a scale
_TABLE = re.compile(
    r"(embedding|shared|embed_tokens|token_embd|relative_attention_bias|attn_rel_b)\.weight$"
)  # never quantized


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that making a picture needs.

    Attributes:
        weights_bytes: by component.
        denoising_bytes: activations of the denoising steps.
        decoding_bytes: activations of the decoder.
        is_staged: whether components are dropped as soon as they are no longer needed.
        upscaling_bytes: of enlarging the picture, after drawing it.
    """

    weights_bytes: dict[str, int]
    denoising_bytes: int
    decoding_bytes: int
    is_staged: bool = False
    upscaling_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """The largest need at any moment."""
        parts = self.weights_bytes
        if not self.is_staged:
            working = max(self.denoising_bytes, self.decoding_bytes, self.upscaling_bytes)
            return _PROCESS_BYTES + sum(parts.values()) + working
        text = sum(size for name, size in parts.items() if name.startswith("text_encoder"))
        decoder = parts.get("vae", 0)
        denoiser = sum(parts.values()) - text - decoder
        drawing = max(text, denoiser + self.denoising_bytes, decoder + self.decoding_bytes)
        return _PROCESS_BYTES + max(drawing, self.upscaling_bytes)


def plan_memory(
    model: ModelFolder,
    *,
    width: int,
    height: int,
    guided: bool,
    reference_pixels: int = 0,
    controls: Sequence[ControlFiles] = (),
    bytes_per_weight: int,
    quantization_bits: int | None = None,
    is_staged: bool = False,
    is_compiled: bool = False,
    policy: MemoryPolicy | None = None,
    upscaling_bytes: int = 0,
) -> MemoryPlan:
    """Adds up what a picture needs.

    Args:
        model: what is loaded.
        width: pixels.
        height: pixels.
        guided: whether the network sees two pictures at a time.
        reference_pixels: of all reference pictures, as the model sees them.
        controls: ControlNets, which are kept beside the denoiser.
        bytes_per_weight: of the compute dtype.
        quantization_bits: 4, 5, 6, 8 or None.
        is_staged: see `MemoryPlan`.
        is_compiled: whether a CPU's compiled kernels draw it, which make fewer arrays.
        policy: of the device; None is that of this machine's CPU.
        upscaling_bytes: see `MemoryPlan`.

    Raises:
        InvalidModelFilesError: there are no weights, or a file is not what it should be; names it.
    """
    if not model.weight_files:
        raise InvalidModelFilesError(
            f"{model.folder} holds no safetensors weights",
            hint="give the folder that holds unet/ or transformer/, or download the model again",
        )
    branches = 3 if model.task == INSTRUCT_PIX2PIX else 2
    pixels, batch = width * height, branches if guided else 1
    if model.is_flow:
        # With guidance one pass runs after the other.
        tokens = (pixels + reference_pixels) // 256 + _TEXT_TOKENS
        denoising = tokens * model.family.bytes_per_token * bytes_per_weight // 4
        # On a CPU a map is widened while it is used.
        denoising += 4 * _largest_map(model.loaded_tensors("transformer")) if bytes_per_weight == 4 else 0
    else:
        latents = pixels // model.size_multiple**2
        floats = _UNET_FLOATS_COMPILED if is_compiled else _UNET_FLOATS
        denoising = latents * batch * model.unet_channels * floats * bytes_per_weight
    denoising += int(denoising * _CONTROL_SHARE * len(controls))
    # Decoders compute in float32 (halves overflow there), large pictures in tiles.
    policy = MemoryPolicy.for_machine() if policy is None else policy
    tile_pixels = min(pixels, policy.decode_side**2)
    floats = _DECODER_FLOATS_COMPILED if is_compiled else _DECODER_FLOATS
    decoding = tile_pixels * model.decoder_channels * floats * 4
    weights = {
        name: _weights_bytes(
            model.loaded_tensors(name),
            4 if name == "vae" else bytes_per_weight,
            None if name == "vae" else quantization_bits,
            sensitive_layers=model.family.sensitive_layers,
        )
        for name in model.components
    }
    if controls:
        sizes = (
            _weights_bytes(control.tensors(), bytes_per_weight, None, sensitive_layers=())
            for control in {control.path: control for control in controls}.values()
        )
        weights["controlnet"] = sum(sizes)
    return MemoryPlan(weights, denoising, decoding, is_staged, upscaling_bytes)


def keeps_model(plan: MemoryPlan, available_bytes: int | None, *, policy: MemoryPolicy | None = None) -> bool:
    """Whether the whole model may stay loaded: it fits, and the machine's policy does not drop its parts.

    Args:
        plan: with the whole model in memory.
        available_bytes: free memory; None where the system does not report it.
        policy: of the device; None is that of this machine's CPU.
    """
    policy = MemoryPolicy.for_machine() if policy is None else policy
    fits = available_bytes is None or plan.peak_bytes <= available_bytes
    return fits and not policy.releases(plan.peak_bytes)


def check_memory(plan: MemoryPlan, *, available_bytes: int | None = None) -> None:
    """Raises an error for a picture that does not fit into memory.

    Args:
        plan: the need.
        available_bytes: free memory; None reads it from the system. Where the system does not report it,
            nothing is raised.

    Raises:
        InsufficientMemoryError: with the need, the free memory and what to change.
    """
    available = available_memory_bytes() if available_bytes is None else available_bytes
    if available is None or plan.peak_bytes <= available:
        return
    need, free = format_bytes(plan.peak_bytes), format_bytes(available)
    raise InsufficientMemoryError(
        f"this picture needs about {need}, and {free} of memory are free",
        hint=_advice(plan, available),
    )


def _advice(plan: MemoryPlan, available: int) -> str:
    weights = sum(plan.weights_bytes.values()) + _PROCESS_BYTES
    if weights <= available:
        return "a smaller size, or close other programs"
    if weights * 0.6 <= available:
        return "quantization_bits=4, or close other programs"
    return "a smaller model such as emoji-mini, or close other programs"


def _weights_bytes(
    tensors: Mapping[str, StoredTensor],
    bytes_per_weight: int,
    bits: int | None,
    *,
    sensitive_layers: tuple[str, ...],
) -> int:
    total = 0
    for name, tensor in tensors.items():
        kept_bits = None if any(piece in name for piece in sensitive_layers) else bits
        is_half = _is_half(name, tensors)
        total += _tensor_bytes(name, tensor, bytes_per_weight, kept_bits, is_half=is_half)
    return total


def _largest_map(tensors: Mapping[str, StoredTensor]) -> int:
    """Numbers in the largest linear map that is not stored in float32."""
    counts = [0]
    for name, tensor in tensors.items():
        scales = tensors.get(f"{name.removesuffix('.weight')}.scales")
        if scales is not None and len(tensor.shape) == 2 and name.endswith(".weight"):
            counts.append(tensor.shape[0] * scales.shape[-1] * _GROUP)
        elif len(tensor.shape) == 2 and tensor.dtype != "F32":
            counts.append(math.prod(tensor.shape))
    return max(counts)


def _is_half(name: str, tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether it is read in 16 bits: float8 with factors is widened to 32."""
    tensor, module = tensors[name], name.removesuffix(".weight")
    is_scaled = f"{module}.scale_weight" in tensors or f"{module}.weight_scale" in tensors
    is_plain_float8 = tensor.dtype in ("F8_E4M3", "F8_E5M2") and not is_scaled
    return is_plain_float8 or tensor.dtype in ("F16", "BF16", *QUANTIZED)


def _tensor_bytes(
    name: str, tensor: StoredTensor, bytes_per_weight: int, bits: int | None, *, is_half: bool
) -> int:
    count = math.prod(tensor.shape)
    if tensor.dtype in ("U32", "U64", "I64"):  # quantized already, or an index
        return tensor.size_bytes
    packed = packed_bits(name, tensor.shape, tensor.dtype)
    if packed is not None:
        return count * packed // 8 + 2 * bytes_per_weight * count // 32
    is_map = name.endswith(".weight") and len(tensor.shape) > 1
    if is_map and bits is not None and len(tensor.shape) == 2 and not _TABLE.search(name):
        scales_bytes = 2 * bytes_per_weight * count // _GROUP  # a scale and a bias for each group
        return count * bits // 8 + scales_bytes
    if is_map and is_half and count >= _LARGE_WEIGHT:
        return count * 2  # they stay as they are (see diffusion.weights.precision.storage_dtype)
    return count * bytes_per_weight
