#!/usr/bin/env python
"""Does PoCL from pip serve this processor? Exits with 1, and says why, where it does not.

`make demo` and `make test` ask before they install Intel's CPU runtime, which is larger.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from importlib import metadata

# Where Intel's CPU runtime can be had from pip.
INTEL = {("linux", "x86_64"), ("win32", "amd64")}


def main() -> int:
    """0 where PoCL from pip works, or where pip has no other driver."""
    system = sys.platform, platform.machine().lower()
    try:
        version = metadata.version("pocl-binary-distribution")
    except metadata.PackageNotFoundError:
        why = f"pip has no PoCL for {' '.join(system)}"
    else:
        why = _fault()
        if why is None:
            print(f"CPU driver: PoCL {version} from pip, which serves this processor.")
            return 0
        why = f"PoCL {version} from pip does not serve this processor ({why})"
    if system not in INTEL:
        print(f"CPU driver: none from pip, {why}. OpenCL devices of the system are used.")
        return 0
    print(f"CPU driver: {why}; installing Intel's CPU runtime instead, 276 MB to download …")
    return 1


def _fault() -> str | None:
    """What is wrong with PoCL from pip; None where it works."""
    with tempfile.TemporaryDirectory() as empty:
        os.environ["OCL_ICD_VENDORS"] = empty  # it is found without a file, the system's are not
        from clconv.drivers import discovery

        found = [one for one in discovery.find() if one.info.kind == "CPU"]
        faults = [discovery.check(one.device) for one in found]
    if not found:
        return "it shows no device"
    return None if None in faults else faults[0]


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    sys.exit(main())
