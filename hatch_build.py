"""Puts compiled kernels into a wheel; one without a compiler has their sources only.

What `src/steppe/sparse/native` compiles has nothing of Python in it, so that one wheel serves every
version: py3-none-<platform>. An editable install compiles at the first need instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = "steppe/sparse/native"


def natives(folder: Path) -> Any:
    """The package of the kernels without steppe around it, which needs torch."""
    spec = importlib.util.spec_from_file_location(
        "native", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["native"] = package
    spec.loader.exec_module(package)
    return importlib.import_module("native.build")


class NativeHook(BuildHookInterface):
    """Compiles before a wheel is packed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        build = natives(Path(self.root) / "src" / NATIVE)
        self.folder = tempfile.TemporaryDirectory(prefix="steppe-wheel-")
        folder = Path(self.folder.name)
        try:
            record = build.compiled(build.compiler(), folder)
            build.load(folder / build.NAME)  # multiplies as it should
        except build.Unusable as error:
            self.app.display_warning(f"a wheel without compiled kernels: {error}")
            return
        for name in (build.NAME, build.RECORD):
            build_data["force_include"][str(folder / name)] = f"{NATIVE}/_lib/{name}"
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        self.app.display_info(f"kernels for {', '.join(record.instruction_sets)}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.folder.cleanup()
