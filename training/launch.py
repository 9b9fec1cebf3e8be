"""Run a training stage on two ranks of one thread each: `python launch.py train_unet.py --minutes 60`."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path


def wait(children):
    """The exit status: 0 when all are done, or that of the first that fails, for which others would wait forever."""
    while True:
        codes = [child.poll() for child in children]
        if any(codes) or None not in codes:
            return next((code for code in codes if code), 0)
        time.sleep(0.5)


def main():
    ranks = int(os.environ.get("RANKS", "2"))
    shared = os.environ | {
        "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(random.randint(20000, 40000)), "WORLD_SIZE": str(ranks),
    }  # fmt: skip
    script = Path(__file__).parent / sys.argv[1]
    children = [
        subprocess.Popen([sys.executable, script, *sys.argv[2:]], env=shared | {"RANK": str(rank)})
        for rank in range(ranks)
    ]
    try:
        sys.exit(wait(children))
    finally:
        for child in children:
            child.kill()


if __name__ == "__main__":
    main()
