"""Replays one seed: `make simulate SEED=7 STEPS=5000`; with TELL=1 it says what happens."""

import argparse
import sys

from tests.simulation.run import STEPS, simulate


def main() -> int:
    """Run one world and print what became of it; 1 when something was violated."""
    parser = argparse.ArgumentParser(prog="make simulate")
    parser.add_argument("seed", type=int)
    parser.add_argument("steps", type=int, nargs="?", default=STEPS)
    parser.add_argument("--tell", action="store_true")
    given = parser.parse_args()
    outcome = simulate(given.seed, steps=given.steps, is_told=given.tell)
    faults = ", ".join(f"{name} {count}" for name, count in sorted(outcome.faults.items()))
    ends = ", ".join(f"{state} {count}" for state, count in sorted(outcome.ends.items()))
    sys.stdout.write(
        f"seed {outcome.seed}: {outcome.step} steps in {outcome.virtual_s:.0f} virtual s,"
        f" digest {outcome.digest[:16]}\n  jobs: {ends}\n  faults: {faults}\n"
    )
    if outcome.violation is not None:
        sys.stdout.write(f"{outcome.told}\n")
    return int(outcome.violation is not None)


if __name__ == "__main__":
    sys.exit(main())
