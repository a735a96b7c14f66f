# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A program made of parts of this collection, as one file that Python runs (PEP 441).

A module that a play runs on a host has the parts with it; so what is installed there is the code that the play uses,
and needs neither Ansible nor the collection afterwards.
"""

from __future__ import annotations

import importlib
import io
import zipfile
from collections.abc import Sequence

_PACKAGE = "ansible_collections.baremetal.llm.plugins.module_utils"
_MAIN = """from __future__ import annotations

import sys

from {package}.{entry} import main

sys.exit(main())
"""


def build_archive(entry: str, modules: Sequence[str], python: str) -> bytes:
    """An archive that runs `main()` of module_utils/`entry` and holds these modules of the same folder.

    The same parts make the same bytes, wherever they are loaded from.
    """
    files = {"__main__.py": _MAIN.format(package=_PACKAGE, entry=entry)}
    packages = _PACKAGE.split(".")
    for count in range(1, len(packages) + 1):
        files["/".join([*packages[:count], "__init__.py"])] = ""
    for name in modules:
        files["/".join([*packages, f"{name}.py"])] = _source(f"{_PACKAGE}.{name}")
    buffer = io.BytesIO()
    # Isolated: neither the folder that it is started in nor the environment has a say in what is imported.
    buffer.write(f"#!{python} -I\n".encode())
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for path, text in sorted(files.items()):
            entry_of = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry_of.external_attr = 0o644 << 16
            archive.writestr(entry_of, text)
    return buffer.getvalue()


def _source(name: str) -> str:
    module = importlib.import_module(name)
    loader = module.__spec__.loader if module.__spec__ is not None else None
    # Of a file, of the archive that Ansible sends a module in, or of whatever else it was loaded from.
    text = loader.get_source(name) if loader is not None and hasattr(loader, "get_source") else None
    if text is None:
        raise ValueError(f"the source of {name} cannot be had from where it was loaded")
    return str(text)
