"""Builds the native CPU kernels at install; without a C compiler the package installs all the same.

Everything else about the package stands in pyproject.toml.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "u2net3d.ops._kernels",  # a plain C library, loaded by ctypes (ops/native.py)
            ["u2net3d/ops/kernels.c"],
            depends=["u2net3d/ops/depthwise.inc.c", "u2net3d/ops/norm.inc.c"],
            extra_compile_args=["-O3", "-Wno-psabi", "-ffp-contract=fast", "-fopenmp"],
            extra_link_args=["-fopenmp"],
            optional=True,
        )
    ]
)
