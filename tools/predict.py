#!/usr/bin/env python3
"""Says how fast a device might be. The same as `python -m clconv predict`."""

import sys

from clconv.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
