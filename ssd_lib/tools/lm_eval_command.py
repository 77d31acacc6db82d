"""`ssd-lm-eval`: lm-eval's own command line, with the model `ssd` registered."""

from __future__ import annotations

import sys


def main() -> None:
    """Run lm-eval. What it raises of wrong arguments is told in a line, as is that it is not installed."""
    try:
        from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

        import ssd_lib.tools.lm_eval_model  # noqa: F401 (registers the model)
    except ModuleNotFoundError as error:
        sys.exit(f"ssd-lm-eval: {error}. It needs lm-eval: pip install 'ssd_lib[eval]'")
    try:
        cli_evaluate()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"ssd-lm-eval: {error}")
