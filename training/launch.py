"""Run a training stage on two ranks of one thread each: `python launch.py train_unet.py --minutes 60`."""

import os
import random
import subprocess
import sys
from pathlib import Path


def main():
    ranks = int(os.environ.get("RANKS", "2"))
    shared = os.environ | {
        "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(random.randint(20000, 40000)), "WORLD_SIZE": str(ranks),
    }  # fmt: skip
    script = Path(__file__).with_name(sys.argv[1])
    children = [
        subprocess.Popen([sys.executable, script, *sys.argv[2:]], env=shared | {"RANK": str(rank)})
        for rank in range(ranks)
    ]
    sys.exit(max(child.wait() for child in children))


if __name__ == "__main__":
    main()
