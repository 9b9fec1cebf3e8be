"""`python -m benchmarks`: side by side, interleaved, medians and ratios, as a Markdown table."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

from benchmarks import bundled
from benchmarks.contest import Contestant, compete, diffusers, openvino, ours, sd_cpp

# Multiplications and additions of one guided step, counted by hand and by torch's counter.
SD15_STEP_GFLOP = 1606.5
PARTS = ("sd15", "sdxl", "vae", "memory", "cancel", "bundled", "stop", "size")


def main() -> None:
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    python = torch_python(options)
    lines = [heading()]
    for part in options.only:
        print(f"{part} ...", file=sys.stderr, flush=True)
        lines += MEASURE[part](options, python)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("build/bench"), help="for models of random weights, 7.5 GB"
    )
    parser.add_argument("--torch-python", type=Path, help="an interpreter with torch and diffusers")
    parser.add_argument("--sd-cpp", type=Path, help="sd-server of stable-diffusion.cpp, for the step of 1.5")
    parser.add_argument(
        "--openvino-python",
        type=Path,
        help="an interpreter with openvino, torch and diffusers, for the step of 1.5 and the decoder; "
        "the first run converts the networks, which takes minutes",
    )
    parser.add_argument("--no-torch", action="store_true", help="measure ours alone")
    parser.add_argument("--plain", action="store_true", help="also MLX without our fast paths (slow)")
    parser.add_argument(
        "--leave-out",
        nargs="+",
        default=[],
        metavar="NAME",
        help="contestants, where memory is too small for all",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sdxl-size", type=int, default=512, help="512 is SDXL Turbo's size")
    parser.add_argument("--picture-steps", type=int, default=2, help="of the whole picture of 1.5")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=Path("build/bench/results.md"))
    return parser.parse_args()


def torch_python(options: argparse.Namespace) -> Path | None:
    """The interpreter given, or one built into build/bench-env; None without either."""
    if options.no_torch:
        return None
    if options.torch_python is not None:
        return options.torch_python
    folder = Path("build/bench-env")
    python = folder / "bin" / "python"
    if not python.exists():
        print("installing torch and diffusers into build/bench-env ...", file=sys.stderr)
        venv.create(folder, with_pip=True)
        needs = ["torch", "diffusers", "transformers", "safetensors"]
        done = subprocess.run([python, "-m", "pip", "install", "-q", *needs], check=False)
        if done.returncode:
            print("no torch: measuring ours alone", file=sys.stderr)
            (folder / "pyvenv.cfg").unlink()
            return None
    return python


def heading() -> str:
    when = time.strftime("%Y-%m-%d")
    return (
        f"{when}, {bundled.cpu_name()}, {len(os.sched_getaffinity(0))} processors, "
        f"load {os.getloadavg()[0]:.1f} before, {bundled.versions()}\n"
    )


def peers(
    options: argparse.Namespace, python: Path | None, task: str, folder: Path, size: int
) -> list[Contestant]:
    found = [ours("swiftai_nb", task, folder, size), ours("swiftai_nb bf16", task, folder, size, "bf16")]
    found.append(ours("swiftai_nb, NumPy", task, folder, size, "NumPy"))
    if python is not None:
        found += [diffusers(python, task, folder, size, mode) for mode in ("fp32", "bf16")]
    if options.openvino_python is not None and folder.name == "sd15" and not task.startswith("picture"):
        found += [openvino(options.openvino_python, task, folder, size, mode) for mode in ("fp32", "bf16")]
    if options.plain:
        found.append(ours("MLX, no fast paths", task, folder, size, "plain"))
    return [one for one in found if one.name not in options.leave_out]


def table(title: str, contestants: list[Contestant], *, gflop: float | None = None) -> list[str]:
    """Rows with median, best, ratios to diffusers and to the sgemm limit, and peak memory."""
    references = [
        next((c for c in contestants if c.name == f"diffusers {mode}"), None) for mode in ("fp32", "bf16")
    ]
    limits = [run["sgemm"] for c in contestants if c.name == "swiftai_nb" for run in c.timed]
    limit_s = gflop / statistics.median(limits) if gflop is not None and any(limits) else None
    lines = ["", f"### {title}", ""]
    if any(limits):
        lines += [
            f"float32 product of the machine beside our runs: {statistics.median(limits):.0f} GFLOP/s",
            "",
        ]
    lines += [
        "| | median s | best s | CPU s | x diffusers fp32 | x diffusers bf16 | x fp32 limit | peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in contestants:
        ratios = ["" if r is None else f"{c.median_s / r.median_s:.2f}" for r in references]
        bound = "" if limit_s is None else f"{c.median_s / limit_s:.2f}"
        best = min(c.seconds())
        memory = f"{c.peak_bytes / 1e6:.0f} MB"
        cells = (c.name, f"{c.median_s:.2f}", f"{best:.2f}", f"{c.cpu_s:.2f}", *ratios, bound, memory)
        lines.append(f"| {' | '.join(cells)} |")
    deaf = [run["longest_deaf_s"] for c in contestants[:1] for run in c.timed if "longest_deaf_s" in run]
    if deaf:
        lines += ["", f"Longest time in which a cancel was not heard: {max(deaf):.2f} s"]
    return lines


def sd15(options: argparse.Namespace, python: Path | None) -> list[str]:
    from benchmarks.models import write_sd15

    folder = write_sd15(options.work)
    contestants = peers(options, python, "unet", folder, 512)
    if options.sd_cpp is not None:
        contestants.append(sd_cpp(options.sd_cpp, folder, 512))
    contestants = compete(contestants, options.rounds)
    return table("Stable Diffusion 1.5, one guided step at 512x512", contestants, gflop=SD15_STEP_GFLOP)


def sdxl(options: argparse.Namespace, python: Path | None) -> list[str]:
    from benchmarks.models import write_sdxl_unet

    size, folder = options.sdxl_size, write_sdxl_unet(options.work)
    contestants = compete(peers(options, python, "unet", folder, size), options.rounds)
    return table(f"SDXL, one guided step at {size}x{size}", contestants)


def vae(options: argparse.Namespace, python: Path | None) -> list[str]:
    from benchmarks.models import write_sd15

    folder = write_sd15(options.work)
    return table("VAE decode, 512x512", compete(peers(options, python, "vae", folder, 512), options.rounds))


def memory(options: argparse.Namespace, python: Path | None) -> list[str]:
    from benchmarks.models import write_sd15

    folder, steps = write_sd15(options.work), options.picture_steps
    contestants = compete(peers(options, python, f"picture-{steps}", folder, 512), 0)
    lines = table(
        f"Stable Diffusion 1.5, prompt to PNG, {steps} steps at 512x512, one cold turn", contestants
    )
    reference = next((c for c in contestants if c.name == "diffusers fp32"), None)
    if reference is not None:
        lines += ["", f"Peak memory: {contestants[0].peak_bytes / reference.peak_bytes:.2f} x diffusers fp32"]
    return lines


def bundled_model(options: argparse.Namespace, python: Path | None) -> list[str]:
    warm, cold = bundled.warm_seconds(max(5, options.rounds)), bundled.cold_seconds(options.rounds)
    return [
        "",
        "### Bundled model",
        "",
        f"- prompt to picture in a warm kernel: {bundled.describe(warm)}",
        f"- fresh interpreter to first picture and exit: {bundled.describe(cold)}",
    ]


def size(options: argparse.Namespace, python: Path | None) -> list[str]:
    own = bundled.install_bytes(sys.executable, bundled.OUR_NEEDS)
    lines = ["", "### Size on disk", "", f"- swiftai_nb's own requirements: {own / 1e6:.0f} MB"]
    if python is not None:
        other = bundled.install_bytes(str(python), bundled.TORCH_NEEDS)
        lines.append(f"- torch, diffusers, transformers and theirs: {other / 1e6:.0f} MB")
    return lines


def cancel(options: argparse.Namespace, python: Path | None) -> list[str]:
    from benchmarks.cancel import report
    from benchmarks.models import write_sd15

    return report(write_sd15(options.work))


def stop(options: argparse.Namespace, python: Path | None) -> list[str]:
    from benchmarks.stop_flag import report

    return report()


MEASURE = {
    "sd15": sd15,
    "sdxl": sdxl,
    "vae": vae,
    "memory": memory,
    "cancel": cancel,
    "bundled": bundled_model,
    "stop": stop,
    "size": size,
}

if __name__ == "__main__":
    main()
