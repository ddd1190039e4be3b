#!/usr/bin/env python3
"""Finds the fastest kernels on this device. The same as `python -m clconv tune`."""

import sys

from clconv.commands.tune import main

if __name__ == "__main__":
    sys.exit(main())
