"""Fuzz every codec.

    python -m fuzz [--inputs N] [--seed S] [TARGET ...]        `make fuzz INPUTS=1000000`

Inputs are shared out among the targets. The same seed gives the same inputs; one that breaks the rule is printed.
"""

import argparse
import logging
import math
import random
import sys
import time
import zlib

from fuzz.exchanges import exchanges
from fuzz.mutation import Mutator
from fuzz.target import Target
from fuzz.targets import CODECS


def fuzz(target: Target, num_inputs: int, seed: int) -> None:
    """Hold a target to the rule on its seeds and on so many inputs. Prints the input that broke it and raises."""
    random_ = random.Random(seed ^ zlib.crc32(target.name.encode()))  # noqa: S311  (repeatable, not secret)
    mutator = Mutator(target.seeds, random_)
    for index in range(num_inputs):
        data = target.seeds[index] if index < len(target.seeds) else mutator.next()
        try:
            target.check(data)
        except BaseException:
            sys.stderr.write(f"{target.name}, seed {seed}, input {index}: {data!r}\n")
            raise


def main() -> None:
    """Fuzz all targets, or those named."""
    parser = argparse.ArgumentParser(description="Fuzz the codecs and the routes.")
    parser.add_argument("names", nargs="*", metavar="TARGET")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it would tell of every form that it refuses
    with exchanges(CODECS) as routes:
        targets = [*CODECS, *routes]
        names = [target.name for target in targets]
        unknown = set(options.names) - set(names)
        if unknown:
            parser.error(f"no targets {', '.join(sorted(unknown))}; there are {', '.join(names)}")
        _fuzz_all([one for one in targets if one.name in (options.names or names)], options.inputs, options.seed)


def _fuzz_all(targets: list[Target], num_inputs: int, seed: int) -> None:
    shares = sum(target.share for target in targets)
    total, began = 0, time.perf_counter()
    for target in targets:
        num, start = max(1, math.ceil(num_inputs * target.share / shares)), time.perf_counter()
        fuzz(target, num, seed)
        total += num
        sys.stdout.write(f"{target.name:32} {num:>9} inputs {num / (time.perf_counter() - start):>9.0f}/s\n")
        sys.stdout.flush()
    took = time.perf_counter() - began
    sys.stdout.write(f"{total} inputs held to the rule in {took:.0f} s, seed {seed}\n")


if __name__ == "__main__":
    main()
