"""Kill, fill up and fail merges, hundreds of times, and see each end in the same bits.

    python -m torture --kills 60 --signals 10 --disks 10 --every 1     # per recipe
    python -m torture --recipes sta --kills 5

Ends at the first thing that must not be, naming it; what it left stays in ``--work``, of which a tmpfs makes it faster.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from torture.models import RECIPES, Checkpoints
from torture.runs import Case, built_shim
from torture.trials import Counts, faults, full_disks, kills, signals


def main() -> int:
    """Torture; the counts are printed, and with ``--record`` written."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="*", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--kills", type=int, default=60, help="per recipe, at random instants (default: 60)")
    parser.add_argument("--signals", type=int, default=8, help="per recipe (default: 8)")
    parser.add_argument("--disks", type=int, default=12, help="full disks per recipe (default: 12)")
    parser.add_argument("--every", type=int, default=1, help="fail each so-manyth call; 0: none (default: 1)")
    parser.add_argument("--megabytes", type=float, default=60, help="of a model that is killed (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder for models and outputs (default: a new one)")
    parser.add_argument("--record", type=Path, help="write the counts to this JSON file")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(dir=arguments.work)).resolve()
    generator = np.random.default_rng(arguments.seed)
    shim, log = built_shim(work), work / "calls.log"
    large, small = Checkpoints(work / "large", arguments.megabytes), Checkpoints(work / "small", 0.5)
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:7.0f} s  {text}", flush=True)

    counts: dict[str, dict[str, Counts]] = {}
    for name in arguments.recipes:
        case = Case(large, name, work)
        say(f"{name}: {case.bytes / 1e6:.0f} MB in {case.seconds:.2f} s")
        counts[name] = {
            "kills": kills(case, shim, log, arguments.kills, generator, say),
            "signals": signals(case, arguments.signals, generator),
            "disks": full_disks(case, shim, work, arguments.disks, generator, say),
        }
        if arguments.every:
            counts[name]["faults"] = faults(Case(small, name, work), shim, log, arguments.every, say)
    text = json.dumps({"seed": arguments.seed, "megabytes": arguments.megabytes, "recipes": counts}, indent=1)
    print(text)
    if arguments.record:
        arguments.record.write_text(text + "\n")
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
