"""One registry per kind of thing (methods, formats, kernels, inspectors): filled by class statements, found by name.

A class joins by being defined in a module of the registry's package, or of a package that declares an entry
point in the group `workbench.<kind>`; both are imported at the first look-up, so that `import workbench` stays
cheap.
"""

from __future__ import annotations

import importlib
import pkgutil
import threading
from importlib.metadata import entry_points
from typing import Any

from .errors import Refused, near


class Registry:
    """name -> class, in order of name. `kind` is the singular used in messages; `package` is walked once."""

    def __init__(self, kind: str, package: str):
        self.kind, self.package = kind, package
        self._known: dict[str, Any] = {}
        self._walked = False
        self._lock = threading.RLock()

    def add(self, name: str, thing: Any) -> None:
        """Refused where another thing has that name already; the same one, defined again in a notebook, replaces it."""
        known = self._known.get(name)
        if known is not None and _place(known) != _place(thing):
            raise Refused(
                f"a {self.kind} called {name!r} is in {_place(known)} already: give {_place(thing)} another name"
            )
        self._known[name] = thing

    def _walk(self) -> None:
        if self._walked:
            return
        with self._lock:  # one thread walks, others wait for the whole; a module that fails is tried again
            package = importlib.import_module(self.package)
            for module in pkgutil.walk_packages(package.__path__, f"{self.package}."):
                importlib.import_module(module.name)
            for entry in entry_points(group=f"workbench.{self.kind}"):
                entry.load()
            self._walked = True

    def names(self) -> list[str]:
        self._walk()
        return sorted(self._known)

    def __getitem__(self, name: str) -> Any:
        self._walk()
        if name not in self._known:
            raise Refused(f"no {self.kind} is called {name!r}{near(name, self._known)}")
        return self._known[name]

    def __iter__(self):
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        self._walk()
        return name in self._known


def _place(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', thing)}"
