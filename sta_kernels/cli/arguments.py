"""Parsers whose errors are one line."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse prints its usage before an error, and on a screen the error is lost behind it."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where the help is, and leave with exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")
