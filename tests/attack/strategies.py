"""Hostile input: what a file, a server, a prompt or another process may hold, near to valid and far from it."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

from hypothesis import strategies as st

HUGE = st.sampled_from([2**31, 2**53, 2**63, 2**64, 10**30, -1, -(2**63), 10**400])
NUMBERS = st.integers() | HUGE | st.floats() | st.integers(0, 64)
# Values that break what expects another type: each stood in a file that ended in a traceback once.
ODD = (
    st.none()
    | st.booleans()
    | NUMBERS
    | st.text(max_size=8)
    | st.sampled_from(["", "\0", "..", "../x", "/abs", "\ud83d", "a" * 5000, "{a}", "NaN", "1e999", "٣", "²"])
)
VALUES = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)
DEEP = st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "[" * 900 + "]" * 900])


def dump(value: Any) -> str:
    """JSON, with Infinity and NaN, and half surrogate pairs as escapes."""
    return json.dumps(value)


@st.composite
def mutated(draw: st.DrawFn, base: dict[str, Any]) -> dict[str, Any]:
    """A copy of valid data in which up to three values, at any depth, are replaced, dropped or doubled."""
    data: dict[str, Any] = json.loads(json.dumps(base))
    for _ in range(draw(st.integers(0, 3))):
        parent: Any = data
        while True:
            keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            child = parent[key]
            if isinstance(child, (dict, list)) and child and draw(st.booleans()):
                parent = child
                continue
            action = draw(st.sampled_from(["replace", "replace", "drop", "wrap"]))
            if action == "drop":
                del parent[key]
            else:
                parent[key] = draw(VALUES) if action == "replace" else [child]
            break
    return data


def json_like(base: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """The bytes of a JSON file: nearly valid, another value, nested too deeply, cut off, or no JSON."""
    whole = (mutated(base) | VALUES).map(dump)
    texts = whole | DEEP | st.tuples(whole, st.integers(0, 400)).map(lambda pair: pair[0][: pair[1]])
    encoded = texts.map(lambda text: text.encode("utf-8", "surrogatepass"))
    return encoded | st.binary(max_size=80) | encoded.map(lambda data: b"\xef\xbb\xbf" + data)


Edit = tuple[int, int, bytes]  # where, kind (0 replaces, 1 inserts before, 2 removes a byte), bytes


def edits(data: bytes) -> st.SearchStrategy[list[Edit]]:
    """Up to four changes of valid bytes; see `edited`."""
    at = st.integers(0, max(0, len(data) - 1))
    return st.lists(st.tuples(at, st.integers(0, 2), st.binary(max_size=4)), max_size=4)


def edited(data: bytes, changes: list[Edit]) -> bytes:
    """`data` with some bytes replaced, inserted or removed."""
    out = bytearray(data)
    for at, kind, piece in changes:
        out[at : at + (len(piece) if kind == 0 else kind - 1)] = piece
    return bytes(out)


def flipped(data: bytes) -> st.SearchStrategy[bytes]:
    """Valid bytes with up to four changes."""
    return edits(data).map(lambda changes: edited(data, changes))


RECIPE = {
    "recipe_version": 1,
    "prompt": "a fox",
    "negative_prompt": "blur",
    "model": "sd-1.5",
    "model_revision": "0" * 40,
    "width": 64,
    "height": 64,
    "steps": 4,
    "guidance_scale": 7.5,
    "seed": 7,
    "scheduler": "euler",
    "engine": "mlx",
    "quantization_bits": 8,
    "clip_skip": 1,
    "strength": 0.5,
    "image_sha256": "0" * 64,
    "loras": [{"source": "a/b", "scale": 0.5}],
    "versions": {"mlx": "0.32"},
    "notes": ["cut"],
}
COMFYUI = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 1,
            "steps": 4,
            "cfg": 7,
            "sampler_name": "euler",
            "scheduler": "karras",
            "denoise": 1.0,
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["8", 0], "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blur", "clip": ["4", 1]}},
    "8": {"class_type": "Text", "inputs": {"string": "a fox", "conditioning": ["6", 0]}},
}
INVOKEAI = {
    "positive_prompt": "a fox",
    "negative_prompt": "blur",
    "width": 64,
    "height": 64,
    "seed": 7,
    "steps": 4,
    "cfg_scale": 7.5,
    "scheduler": "euler",
    "model": {"name": "a", "model_name": "b"},
}
_INFOTEXT_PART = st.sampled_from(
    [
        "Steps: 20", "Sampler: DPM++ 2M", "Schedule type: Karras", "CFG scale: 7", "Seed: 1", "Size: 64x64",
        "Size: 9999999999x1", "Model: a", "Clip skip: 2", "Denoising strength: 0.4", "Hires upscale: 2",
        'Lora hashes: "a: 1, b: 2"', 'Lora hashes: "', "Steps: " + "9" * 5000, "CFG scale: inf", "Seed: nan",
        ":", ",", "::::", "Clip skip: -1", "Version: v1", "Parameters version: x", "Seed: ٣", "Seed: ²",
    ]
)  # fmt: skip
INFOTEXTS = st.builds(
    lambda prompt, negative, parts, joint: f"{prompt}\n{negative}{joint.join(parts)}",
    st.text(max_size=40) | st.sampled_from(["a fox", "word " * 5_000]),
    st.sampled_from(["", "Negative prompt: blur\n", "\nNegative prompt:", "\r\n"]),
    st.lists(_INFOTEXT_PART | st.text(max_size=20), max_size=10),
    st.sampled_from([", ", ",", " ", "\n"]),
)
METADATA = st.dictionaries(
    st.sampled_from(["swiftai", "parameters", "invokeai_metadata", "prompt", "exif", "dpi", "Comment"]),
    json_like(RECIPE) | json_like(COMFYUI) | json_like(INVOKEAI) | INFOTEXTS.map(str.encode),
    max_size=3,
)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@st.composite
def pngs(draw: st.DrawFn) -> bytes:
    """PNG files: any texts in any kind of chunk, any announced size, sometimes damaged."""
    width, height = draw(
        st.sampled_from([(1, 1), (8, 8), (0, 5), (60_000, 60_000), (2**31, 1), (8, 8), (8, 8)])
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header)]
    for key, text in draw(METADATA).items():
        name = key.encode("latin-1")
        packed = zlib.compress(text)
        kind, data = draw(
            st.sampled_from(
                [
                    (b"tEXt", name + b"\0" + text),
                    (b"zTXt", name + b"\0\0" + packed),
                    (b"iTXt", name + b"\0\0\0\0\0" + text),
                    (b"iTXt", name + b"\0\1\0\0\0" + packed),
                    (b"zTXt", name + b"\0\0" + packed[:9]),
                    (b"eXIf", b"MM\0*" + text),
                ]
            )
        )
        chunks.append(_chunk(kind, data))
    rows = zlib.compress(bytes((1 + 3 * 8) * 8))
    data = b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, _chunk(b"IDAT", rows), _chunk(b"IEND", b"")])
    return draw(flipped(data)) if draw(st.integers(0, 4)) == 0 else data


def jpeg_with_comment(comment: bytes) -> bytes:
    """A JPEG with an EXIF UserComment of these bytes."""
    from PIL import Image

    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif.tobytes())
    return buffer.getvalue()


SAFETENSORS = {
    "__metadata__": {"format": "pt"},
    "a.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b.weight": {"dtype": "F16", "shape": [4], "data_offsets": [16, 24]},
    "c": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]},
}


@st.composite
def safetensors(draw: st.DrawFn, base: dict[str, Any] = SAFETENSORS, data_bytes: int = 26) -> bytes:
    """Safetensors files whose header is nearly right."""
    header = draw(json_like(base))
    length = draw(st.sampled_from([len(header)] * 6 + [0, 1, 2**31, 2**63, len(header) + 8]))
    rest = draw(st.sampled_from([data_bytes] * 6 + [0, data_bytes - 1, data_bytes + 8]))
    return length.to_bytes(8, "little") + header + bytes(max(0, rest))


MODELS_JSON = {
    "version": 1,
    "default_model": "mine",
    "entries": [
        {
            "id": "mine",
            "name": "Mine",
            "variant": "sd-1.5",
            "repository": "owner/name",
            "revision": "main",
            "description": "d",
            "license": "mit",
            "size_bytes": 1000,
            "min_memory_bytes": 1000,
            "default_steps": 4,
            "default_guidance_scale": 7.5,
            "default_width": 64,
            "default_height": 64,
            "engine": "mlx",
            "local_folder": None,
            "aliases": ["own"],
            "files": [{"path": "unet/config.json", "size_bytes": 10, "oid": None}],
        }
    ],
}
GENERATION_DEFAULTS = {
    "width": 64,
    "height": 64,
    "steps": 4,
    "guidance_scale": 7.5,
    "scheduler": "ddim",
    "display_scale": 4,
}
MAGIC_LINES = st.lists(
    st.sampled_from(
        [
            "--steps", "--seed", "--size", "--model", "--from", "--grid", "--lora", "--save", "--count",
            "--image", "--strength", "--negative", "--style", "--guidance", "--raw", "--dry-run", "--no",
            "4", "1,2,3", "1:9:2", "0:1e9:1", "1..1000000000", "64x64", "wide", "9" * 400, "-1", "nan", "inf",
            "a/b:0.5", "steps=1,2", "seed=1..9999999999", "{x}", "{x[0]}", "{x:>900000000}", "{y.z}",
            "{get_ipython}", "{x.__class__}", "{_}", "{{x}}", "{{{x}}}", "'", '"', "—", "=", "--", "...",
        ]
    )
    | st.text(max_size=12),
    max_size=14,
).map(" ".join)  # fmt: skip
