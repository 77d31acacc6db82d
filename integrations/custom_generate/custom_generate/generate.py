"""Speculative Safety-Aware Decoding (arXiv 2508.17739) in the place of `generate`: a front of the package ssd_lib."""

from ssd_lib.decoding.in_transformers import generate

__all__ = ["generate"]
