"""Compiles the decoder of records into the package, where there are a C compiler and Python's headers.

Elsewhere the package is built without it, and decodes in plain Python (`redbroker/wire/record_set.py`). hatchling runs
this for wheels, editable ones too: those find it in the source tree, beside its source.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

MODULE = "redbroker.wire._record_set"
SOURCE = "redbroker/wire/_record_set.c"
FLAGS = [] if os.name == "nt" else ["-O2", "-Wall", "-Wextra"]


class Decoder(BuildHookInterface[Any]):
    """Says what was built: a wheel with a compiled part is for this Python and platform only."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the files of the wheel are collected."""
        try:
            built = compiled()
        except Exception as error:  # whatever compilers and their wrappers come up with
            self.app.display_warning(f"RedBroker decodes records in plain Python: {SOURCE} was not compiled ({error}).")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"].append(built)


def compiled() -> str:
    """Compile for the Python that runs this; where the result lies, from here."""
    with tempfile.TemporaryDirectory() as scratch:
        command = build_ext(Distribution({"ext_modules": [Extension(MODULE, [SOURCE], extra_compile_args=FLAGS)]}))
        command.build_lib = command.build_temp = scratch
        command.inplace = True
        command.ensure_finalized()
        built = command.get_ext_filename(MODULE)
        Path(built).unlink(missing_ok=True)  # no old one stays behind where this source cannot be compiled
        command.run()
    return built
