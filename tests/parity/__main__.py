"""Run parity packs: `python -m tests.parity PACK.json ...`

Prints the error of each output, and exits with 0 when all outputs of all packs are computed and within
the pack's tolerance, with 1 otherwise.
"""

import sys

from .run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
