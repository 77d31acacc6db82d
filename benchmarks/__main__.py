"""python -m benchmarks [--quick] [--brief] [--only PART]: measure on a CPU, print the tables (see run.py).

python -m benchmarks scale [--quick]: workers and the store, for docs/scale.md (scale.py); reckon: its table of costs (reckoning.py).
"""

import argparse

from benchmarks import reckoning, scale
from benchmarks.run import PARTS, main

parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
parser.add_argument("what", nargs="?", default="cpu", choices=["cpu", "scale", "reckon"])
parser.add_argument(
    "--quick", action="store_true", help="micro shapes: a test of the path, with numbers of no interest"
)
parser.add_argument("--brief", action="store_true", help="fewer points, one thread, CPU time: for a busy machine")
parser.add_argument("--only", default="", choices=["", *PARTS])
given = parser.parse_args()
if given.what == "scale":
    print(scale.main(quick=given.quick))
elif given.what == "reckon":
    print(reckoning.main())
else:
    print(main(quick=given.quick, only=given.only, brief=given.brief))
