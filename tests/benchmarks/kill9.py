"""kill -9 at random moments while verdicts are written: no acknowledged verdict may be lost.

python tests/benchmarks/kill9.py [--kills 200]
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edge_ad.runtime.sinks.store import Store

WRITER = """
import sys, time
from edge_ad.runtime.sinks.store import Store
from edge_ad.runtime.verdict import Verdict, new_id
store = Store(sys.argv[1], max_bytes=0)
n = 0
while True:
    id = new_id()
    store.add(Verdict(id, time.time_ns(), 0, "camera", n, str(n), "OK", 0.1, 0.5, reason="y" * (n % 3000)), ["mqtt"])
    sys.stdout.write(id + "\\n")
    sys.stdout.flush()
    n += 1
"""


def main() -> None:
    """Prints kills, acknowledged verdicts, losses and the store's state; exit code 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    kills = parser.parse_args().kills
    dice, acknowledged = random.Random(0), set()
    with tempfile.TemporaryDirectory(prefix="kill9-") as folder:
        path = Path(folder) / "verdicts.sqlite"
        for _ in range(kills):
            writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
            assert writer.stdout is not None
            acknowledged.add(writer.stdout.readline().strip())
            time.sleep(dice.uniform(0.0, 0.08))
            writer.send_signal(signal.SIGKILL)
            acknowledged |= {
                line.strip() for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")
            }
            writer.wait()
            writer.stdout.close()
        with Store(path) as store:
            stored = {row.verdict.id for row in store.recent(10**9)}
            problems, owed = store.check(), len(store.undelivered("mqtt", 10**9))
            damaged = store.set_aside
    lost = acknowledged - stored
    print(f"kills {kills}, acknowledged {len(acknowledged)}, stored {len(stored)}, lost {len(lost)}")
    print(f"integrity: {problems or 'ok'}, set aside: {damaged}, outbox complete: {owed == len(stored)}")
    raise SystemExit(bool(lost or problems or damaged or owed != len(stored)))


if __name__ == "__main__":
    main()
