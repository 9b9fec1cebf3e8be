"""Stage 1: fetch the emoji art and names with npm, and render the subjects to one array."""

import subprocess
import tarfile

import numpy as np

from runtime import work_dir
from subjects import load_pictures, read_list

PACKAGES = {"art": "@lobehub/fluent-emoji-3d@1.1.0", "emojibase": "emojibase-data@17.0.0"}
PICTURE_SIZE = 128


def fetch(package, target):
    """Download and unpack an npm package; `target/package` holds its files."""
    if (target / "package").exists():
        return target / "package"
    target.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=target, check=True, capture_output=True, text=True
    )
    with tarfile.open(target / done.stdout.strip().splitlines()[-1]) as archive:
        archive.extractall(target, filter="data")
    return target / "package"


def main():
    work = work_dir()
    art, emojibase = (fetch(PACKAGES[k], work / "npm" / k) for k in ("art", "emojibase"))
    subjects = read_list()
    pictures = load_pictures(subjects, emojibase=emojibase, art=art / "assets", size=PICTURE_SIZE)
    np.save(work / "pictures.npy", pictures)
    print(f"{len(subjects)} subjects, {pictures.nbytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
