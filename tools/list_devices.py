#!/usr/bin/env python3
"""Which OpenCL devices are there? The same as the installed command clconv-devices."""

import sys

from clconv.commands.devices import main

if __name__ == "__main__":
    sys.exit(main())
