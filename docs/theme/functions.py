"""Which one is meant where a function of a package has the name of a module in it?"""

from __future__ import annotations

from typing import Any

import griffe


class Functions(griffe.Extension):
    """The function, as for who imports the package: `clconv.variants`."""

    def __init__(self) -> None:
        self._found: dict[str, griffe.Function] = {}

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """Remembers functions of packages, which their modules then hide."""
        if func.parent is not None and func.parent.is_package:
            self._found[func.path] = func

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Puts functions back in place of modules."""
        for path, func in self._found.items():
            if pkg[path.removeprefix(f"{pkg.path}.")].is_module:
                pkg.set_member(path.removeprefix(f"{pkg.path}."), func)
