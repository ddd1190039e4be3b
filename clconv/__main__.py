"""What can be asked of clconv from a shell? `python -m clconv devices | check | benchmark`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from clconv import listing
from clconv.version import VERSION

__all__ = ["main"]

SOURCE = Path(__file__).parent.parent
COMMANDS = """commands:
  devices    list the OpenCL devices, the default marked (also clconv-devices)
  check      the same, and run a small convolution and its gradients on each
  benchmark  time layers beside PyTorch and ONNX Runtime; needs the source tree

Each takes --help."""


def _benchmark(arguments: Sequence[str]) -> int:
    benchmark = SOURCE / "tools" / "benchmark.py"
    # Beside an installed package there may be anybody's tools.
    if not benchmark.is_file() or not (SOURCE / "pyproject.toml").is_file():
        print(
            f"{benchmark} is not there: the benchmark is a tool of clconv's source tree, which the "
            f"package does not have. Get the source of clconv {VERSION} and run "
            "python tools/benchmark.py in it.",
            file=sys.stderr,
        )
        return 1
    return subprocess.call([sys.executable, str(benchmark), *arguments])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command with the arguments behind it; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m clconv",
        description="1-D convolution on OpenCL devices.",
        epilog=COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("command", choices=("devices", "check", "benchmark"))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    options = parser.parse_args(argv)
    if options.command == "benchmark":
        return _benchmark(options.arguments)
    more = ["--check"] if options.command == "check" else []
    return listing.main([*more, *options.arguments])


if __name__ == "__main__":
    sys.exit(main())
