"""Time one exact U(D) against other engines: ``python -m benchmarks.engines --help``."""

import sys

from benchmarks.engines.cli import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
