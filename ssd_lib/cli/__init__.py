"""The command line: `ssd chat · doctor · run · judge · report · train · measure · bench · export · tour · grade`.

It parses, calls the library and prints. Model output is untrusted, so control characters never reach the terminal. Heavy
imports happen inside the commands, so that `ssd --help` answers at once. Each module holds a family of commands; importing it
adds them to the application.
"""

from ssd_lib.cli.common import app  # isort: skip
from ssd_lib.cli import bench, chat, doctor, experiments, export, grade, toy

__all__ = ["app", "bench", "chat", "doctor", "experiments", "export", "grade", "toy"]
