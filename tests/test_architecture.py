"""The arrows between the files, the names that they publish and the docstrings of these."""

import ast
import inspect
import itertools
import re
import subprocess
import sys
from pathlib import Path

import haiku as hk
import pytest
from flax import linen as nn
from flax import nnx

import gs_modules
import gs_modules.haiku
import gs_modules.linen
import gs_modules.nnx

PACKAGE = Path(gs_modules.__file__).parent
CORE = [
    "_types",
    "_scalars",
    "_arguments",
    "_loops",
    "_sharding",
    "_threefry",
    "_bits",
    "_noise",
    "_philox",
    "_tiles",
    "_scores",
    "_fused",
    "_kernels",
    "_jacobian",
    "_rows",
    "_relaxed",
    "_gpu",
    "_draw",
    "_categorical",
    "_lookup",
    "_binary",
    "_subset",
    "_concrete",
    "_estimators",
    "_schedules",
    "_objectives",
    "_metrics",
    "_modules",
    "_latents",
    "_gate_law",
    "_branches",
    "_gates",
]
FRONT_ENDS = {"nnx": "flax", "linen": "flax", "haiku": "haiku"}
PARTS = {
    "_nnx_sampler": "nnx",
    "_nnx_state": "nnx",
    "_linen_sampler": "linen",
    "_haiku_sampler": "haiku",
}
"""The files behind a front-end, which import its framework, the public core and earlier ones."""
FRAMEWORK_MODULES = (nnx.Module, nn.Module, hk.Module)
PUBLIC_FILES = {
    "gs_modules": gs_modules,
    "gs_modules.nnx": gs_modules.nnx,
    "gs_modules.linen": gs_modules.linen,
    "gs_modules.haiku": gs_modules.haiku,
}
PUBLIC = [(file, name) for file, module in PUBLIC_FILES.items() for name in module.__all__]
HOLD_NO_BEHAVIOUR = {"AnnealStep", "Estimator", "LatentOutput", "Schedule"}
"""Protocols, outputs and a state: what they are for shows in the examples of others."""


def parsed(name):
    return ast.parse((PACKAGE / f"{name}.py").read_text())


def imports(tree):
    """Every module that a file imports, with ``from gs_modules import _x`` as ``gs_modules._x``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            for alias in node.names:
                is_file = node.module == "gs_modules" and (PACKAGE / f"{alias.name}.py").exists()
                yield f"{node.module}.{alias.name}" if is_file else node.module


def is_outside(module):
    return module.split(".")[0] not in {*sys.stdlib_module_names, "gs_modules"}


def is_documented_constant(name):
    """Whether the statement after the assignment to ``name`` is a string."""
    for file in CORE:
        for node, after in itertools.pairwise(parsed(file).body):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                return isinstance(after, ast.Expr) and isinstance(after.value.value, str)
    return False


def test_every_file_has_a_place_in_the_order():
    files = {path.stem for path in PACKAGE.glob("*.py")}
    assert files == {"__init__", *CORE, *PARTS, *FRONT_ENDS}


@pytest.mark.parametrize("name", CORE)
def test_core_files_import_jax_numpy_and_earlier_core_files(name):
    earlier = {f"gs_modules.{other}" for other in CORE[: CORE.index(name)]}
    for module in imports(parsed(name)):
        if is_outside(module):
            assert module.split(".")[0] in {"jax", "numpy"}
        elif module.startswith("gs_modules"):
            assert module in earlier


@pytest.mark.parametrize("name", [*PARTS, *FRONT_ENDS])
def test_front_ends_import_their_framework_and_the_public_core(name):
    tree = parsed(name)
    front_end = PARTS.get(name, name)
    earlier = itertools.takewhile(lambda part: part != name, PARTS)
    own = {f"gs_modules.{part}" for part in earlier if PARTS[part] == front_end}
    for module in imports(tree):
        if is_outside(module):
            assert module.split(".")[0] in {"jax", "numpy", FRONT_ENDS[front_end]}
        elif module.startswith("gs_modules"):
            assert module in {"gs_modules", *own}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "core" or node.attr in gs_modules.__all__


def test_nothing_outside_train_imports_train():
    for path in PACKAGE.glob("*.py"):
        assert not any("train" in name.split(".") for name in imports(parsed(path.stem)))


def test_nothing_in_the_package_folder_is_executable():
    for path in PACKAGE.glob("*.py"):
        assert not path.stat().st_mode & 0o111
        names = {node.id for node in ast.walk(parsed(path.stem)) if isinstance(node, ast.Name)}
        assert "__name__" not in names, f"{path.name} holds an executable block"


def test_linters_are_suppressed_in_fewer_than_five_places():
    root = PACKAGE.parent
    folders = (PACKAGE, root / "tests", root / "benchmarks", root / "examples")
    files = [*root.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    assert Path(__file__) in files
    pattern = re.compile(r"# *(?:noqa|ruff:|fmt:|type: *ignore|pyright:)")
    found = [(path.name, line) for path in files for line in pattern.findall(path.read_text())]
    assert len(found) < 5, found


def test_importing_the_core_imports_no_framework_and_warns_of_nothing():
    code = "import gs_modules, sys; print(sorted({'flax', 'haiku', 'optax'} & {*sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_all_of_the_core_is_what_its_init_imports():
    published = {
        alias.asname or alias.name
        for node in parsed("__init__").body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert published == set(gs_modules.__all__)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_all_of_a_front_end_is_its_public_functions_and_classes(name):
    module = PUBLIC_FILES[f"gs_modules.{name}"]
    files = [f"gs_modules.{file}" for file in (name, *PARTS) if PARTS.get(file, name) == name]
    defined = {
        public
        for public, value in vars(module).items()
        if getattr(value, "__module__", None) in files
        if not (public.startswith("_") or public == "Sampler")
    }
    assert defined == set(module.__all__)


@pytest.mark.parametrize(("file", "name"), PUBLIC)
def test_every_public_name_is_documented_by_an_example(file, name):
    value = getattr(PUBLIC_FILES[file], name)
    if inspect.isfunction(value) or inspect.isclass(value):
        assert value.__doc__
        assert (">>> " in value.__doc__) == (name not in HOLD_NO_BEHAVIOUR)
    else:
        assert is_documented_constant(name)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_every_module_documents_its_arguments(name):
    module = PUBLIC_FILES[f"gs_modules.{name}"]
    public = [getattr(module, public) for public in module.__all__]
    for cls in (value for value in public if inspect.isclass(value)):
        if issubclass(cls, FRAMEWORK_MODULES):
            of_call = (cls.__call__, cls.__call__.__doc__)
            for function, documentation in [(cls.__init__, cls.__doc__), of_call]:
                names = set(inspect.signature(function).parameters) - {"self", "parent", "name"}
                assert [name for name in names if f"{name}:" not in documentation] == []
