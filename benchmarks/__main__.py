"""python -m benchmarks [--quick] [--only speed|scaling|parts|lookup]: measure on a CPU, print the table (see cpu.py)."""

import argparse

from benchmarks.cpu import main

parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
parser.add_argument("--quick", action="store_true", help="micro shapes: proves the path, measures nothing of interest")
parser.add_argument("--brief", action="store_true", help="fewer points, one thread, CPU time: for a busy machine")
parser.add_argument("--only", default="", choices=["", "speed", "scaling", "parts", "lookup"])
given = parser.parse_args()
print(main(quick=given.quick, only=given.only, brief=given.brief))
