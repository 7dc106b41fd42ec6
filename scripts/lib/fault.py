"""What the fault scripts in Python have in common on the command line."""

import argparse
import re


def positive(kind):
    """Of argparse: a number, 0 or more, as the scripts in shell take it."""
    def parse(text):
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?" if kind is float else "[0-9]+", text):
            raise argparse.ArgumentTypeError(f"no number, 0 or more: `{text}'")
        return kind(text)
    return parse
