#!/usr/bin/env python3
"""How fast is clconv beside its peers? The same as `python -m clconv benchmark`."""

import sys

from clconv.commands.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
