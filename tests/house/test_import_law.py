"""The one law of the house: imports point left."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAW = (
    "errors < files < volume < spec < ops < io < prep < patches < models < losses < store"
    " < infer < evaluate < train < export < cli < __main__"
)
ORDER = LAW.split(" < ")
NO_TORCH = {"errors", "files", "volume", "spec", "io", "prep"}
DOWNLOAD = "u2net3d.io.download"  # the one that may call another machine
INTERNET = {"asyncio", "ftplib", "http", "httpx", "requests", "smtplib", "socket", "ssl", "urllib"}
NETWORK = {"ops", "models", "losses"}
NETWORK_SEES = {"errors", "volume", "spec", *NETWORK}
KERNEL_LOADER = "u2net3d.ops.library"  # the one that names a file: the kernels built beside it
TRITON_KERNELS = "u2net3d.ops.triton_"  # loaded only where triton is installed
NETWORK_NEEDS = {"torch", "numpy", "pydantic", *sys.stdlib_module_names} - {"pathlib"}


@dataclass(frozen=True)
class Import:
    """One import: where it stands, what it names, and whether importing the file runs it."""

    where: str
    target: str
    at_import: bool

    @property
    def top(self) -> str:
        """`torch` of `torch.nn`."""
        return self.target.split(".")[0]

    @property
    def unit(self) -> str | None:
        """`io` of `u2net3d.io.nifti`; "" for the door itself; None for other packages."""
        return _unit(self.target) if self.top == "u2net3d" else None


def imports(source: str, module: str, is_package: bool = False) -> Iterator[Import]:
    """All imports of a file; those in functions or under TYPE_CHECKING do not run at import."""

    def walk(node: ast.AST, at_import: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for target in _targets(child, module, is_package):
                    yield Import(f"{module}:{child.lineno}", target, at_import)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from walk(ast.Module(child.body, []), False)
                yield from walk(ast.Module(child.orelse, []), at_import)
            else:
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, at_import and not function)

    return walk(ast.parse(source), True)


def _unit(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def _targets(node: ast.Import | ast.ImportFrom, module: str, is_package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parts = module.split(".")
        here = parts[: len(parts) - node.level + is_package]
        base = ".".join([*here, base] if base else here)
    return [f"{base}.{alias.name}" for alias in node.names]


def package_imports() -> dict[str, list[Import]]:
    """The imports of each unit (a file or folder directly under u2net3d); "" is the door."""
    found: dict[str, list[Import]] = {}
    for path in sorted((ROOT / "u2net3d").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        unit = _unit(module)
        source = path.read_text(encoding="utf-8")
        found.setdefault(unit, []).extend(imports(source, module, is_package))
    return found


def test_every_unit_of_the_package_has_its_place_in_the_law():
    assert set(package_imports()) - {""} <= set(ORDER)


def test_imports_point_left():
    allowed = {unit: {*ORDER[: place + 1]} for place, unit in enumerate(ORDER)}
    allowed[""] = set(ORDER)
    wrong = [
        f"{found.where} imports {found.target}"
        for unit, all_found in package_imports().items()
        for found in all_found
        if found.unit is not None and found.unit not in allowed[unit]
        if found.target != "u2net3d.__version__"  # a constant: it loads nothing
    ]
    assert not wrong, f"{LAW}; the door (u2net3d itself) is imported by nothing: {wrong}"


def test_what_starts_instantly_imports_no_torch():
    wrong = [
        found.where
        for unit in NO_TORCH
        for found in package_imports().get(unit, [])
        if found.at_import and f"{found.target}.".startswith(("torch.", "safetensors.torch."))
    ]
    assert not wrong, f"torch belongs inside the functions that compute with it: {wrong}"


def test_what_starts_instantly_loads_no_torch_through_others_either():
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "u2net3d").rglob("*.py")
        if _unit(".".join(path.relative_to(ROOT).with_suffix("").parts)) in NO_TORCH
    )
    assert "u2net3d.prep.resample" in modules
    program = f"import sys, {', '.join(modules)}\nassert 'torch' not in sys.modules"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_the_network_sees_no_files_and_imports_with_torch_numpy_and_pydantic_alone():
    wrong = [
        f"{found.where} imports {found.target}"
        for unit in NETWORK
        for found in package_imports().get(unit, [])
        if not _fits_the_network(found)
    ]
    below = [
        f"{found.where} imports {found.target}"
        for unit in NETWORK_SEES - NETWORK
        for found in package_imports()[unit]
        if found.at_import and found.unit is None and found.top not in NETWORK_NEEDS
    ]
    assert not wrong + below


def _fits_the_network(found: Import) -> bool:
    if found.unit is not None:
        return found.unit in NETWORK_SEES
    if found.top == "pathlib":
        return found.where.startswith(f"{KERNEL_LOADER}:")
    if found.top == "triton":
        return found.where.startswith(TRITON_KERNELS)
    return found.top in NETWORK_NEEDS


def test_triton_is_loaded_only_inside_functions():
    wrong = [
        found.where
        for all_found in package_imports().values()
        for found in all_found
        if found.target.startswith(TRITON_KERNELS)
        if found.at_import and not found.where.startswith(TRITON_KERNELS)
    ]
    assert not wrong, f"it is not installed everywhere: {wrong}"


def test_only_the_download_can_call_another_machine():
    wrong = [
        f"{found.where} imports {found.target}"
        for all_found in package_imports().values()
        for found in all_found
        if found.top in INTERNET and not found.where.startswith(f"{DOWNLOAD}:")
    ]
    assert not wrong, f"what is read stays on this machine: {wrong}"


def test_nnunetv2_and_monai_are_imported_only_inside_functions():
    wrong = [
        found.where
        for all_found in package_imports().values()
        for found in all_found
        if found.at_import and found.top in {"nnunetv2", "monai"}
    ]
    assert not wrong, f"together they take seconds to import: {wrong}"


def test_nothing_imports_torchvision_or_timm():
    wrong = [
        found.where
        for folder in ("u2net3d", "tests", "data", "scripts", "docs")
        for path in (ROOT / folder).rglob("*.py")
        for found in imports(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
        if found.top in {"torchvision", "timm"}
    ]
    assert not wrong, f"beside a CPU torch they do not import: {wrong}"


def test_the_reader_of_imports_misses_none():
    source = """
import torch.nn
from . import schedule
from ..io.nifti import read_image
if TYPE_CHECKING:
    import nibabel
try:
    from u2net3d import store
except ImportError:
    pass
class A:
    import scipy
    def f(self):
        import monai
"""
    found = {(i.target, i.at_import) for i in imports(source, "u2net3d.train.loop")}
    assert found == {
        ("torch.nn", True),
        ("u2net3d.train.schedule", True),
        ("u2net3d.io.nifti.read_image", True),
        ("nibabel", False),
        ("u2net3d.store", True),
        ("scipy", True),
        ("monai", False),
    }
    assert [i.target for i in imports("from .a import b", "u2net3d.io", is_package=True)] == [
        "u2net3d.io.a.b"
    ]
