"""Builds the native CPU kernels at install; without a C compiler the package installs all the same.

Everything else about the package stands in pyproject.toml.
"""

from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "u2net3d.ops._kernels",  # a plain C library, loaded by ctypes (ops/native.py)
            [f"u2net3d/ops/csrc/{name}.c" for name in ("portable", "avx2", "avx512")],
            depends=[str(path) for path in Path("u2net3d/ops/csrc").glob("*.inc.c")],
            extra_compile_args=["-O3", "-Wno-psabi", "-ffp-contract=fast", "-fopenmp"],
            extra_link_args=["-fopenmp"],
            optional=True,
        )
    ]
)
