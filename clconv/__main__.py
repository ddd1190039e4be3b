"""What can be asked of clconv from a shell? `python -m clconv devices | check | tune | …`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from clconv.commands import benchmark, devices, predict, report, source, tune
from clconv.version import VERSION

__all__ = ["main"]


def _check(argv: Sequence[str]) -> int:
    return devices.main(["--check", *argv])


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "devices": (devices.main, "list the OpenCL devices, the default marked (also clconv-devices)"),
    "check": (_check, "the same, and run a small convolution and its gradients on each"),
    "tune": (tune.main, "find the fastest kernels for layers or a model, and remember them"),
    "benchmark": (benchmark.main, "time layers beside PyTorch and ONNX Runtime, and the roofline"),
    "source": (source.main, "print the OpenCL C of a layer, for a device or a profile of one"),
    "predict": (predict.main, "say how fast a device might be that is not at hand, and why"),
    "report": (report.main, "measure this device for five minutes, and write a page to share"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command with the arguments after it; its exit status."""
    lines = [f"  {name:9}  {what}" for name, (_, what) in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="python -m clconv",
        description="1-D convolution on OpenCL devices.",
        epilog="\n".join(["commands:", *lines, "", "Each takes --help."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        return 2
    options = parser.parse_args(argv)
    run, _ = COMMANDS[options.command]
    return run(options.arguments)


def _shell() -> int:
    """The same, where a reader that has seen enough, as `| head`, is no error, and Ctrl-C at any
    time is 130."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still to be written at exit has no reader either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stdout.write("\ninterrupted\n")
        return 130
    return status


if __name__ == "__main__":
    sys.exit(_shell())
