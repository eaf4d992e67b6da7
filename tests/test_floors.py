"""The floors of the package: imports go down only, and functions stay short."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "jaxgen"
FLOORS = {
    "compile_cache": 0,
    "errors": 0,
    "files": 0,
    "inputs": 0,
    "signals": 0,
    "trust": 0,
    "types": 0,
    "conditions": 1,
    "data": 1,
    "losses": 1,
    "nets": 1,
    "optimizers": 1,
    "parametrisations": 1,
    "processes": 1,
    "torch_file": 1,
    "families": 2,
    "sampling": 2,
    "training": 2,
    "accelerators": 3,
    "checksums": 3,
    "checkpoint": 3,
    "metrics": 3,
    "parallel": 3,
    "records": 3,
    "scalars": 3,
    "study": 3,
    "viz": 3,
    "ahead": 4,
    "exports": 4,
    "grafts": 4,
    "hooks": 4,
    "loop": 4,
    "runs": 4,
    "scoring": 4,
    "cli": 5,
    "recipes": 5,
    "__main__": 5,
}
LONGEST = 40


def modules():
    """{dotted name: path} of every module."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def package(name):
    """The floor's own name of a module: jaxgen.nets.unet -> nets; the front door itself -> ""."""
    return [*name.split("."), ""][1]


def imports(name, tree):
    """Dotted names that a module imports, anywhere in it; `from a import b` is a.b where that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            is_package = MODULES.get(name, ROOT / "x.py").name == "__init__.py"
            here = name.split(".")[: len(name.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*here, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


OWN = {
    name: sorted({target for target in imports(name, tree) if target.split(".")[0] == "jaxgen"})
    for name, tree in TREES.items()
}


def test_every_module_has_a_floor():
    assert {package(name) for name in MODULES} - {""} <= set(FLOORS)


@pytest.mark.parametrize("name", [name for name in MODULES if package(name)])
def test_imports_go_down_only(name):
    floor = FLOORS[package(name)]
    above = [target for target in OWN[name] if package(target) and FLOORS[package(target)] > floor]
    assert not above, f"{name} on floor {floor} imports {above}"
    # the front door is above everything; only its top, the command line, may come back through it
    assert "jaxgen" not in OWN[name] or FLOORS[package(name)] == 5


def test_families_and_sampling_do_not_know_each_other():
    for one, other in (("families", "sampling"), ("sampling", "families")):
        for name in MODULES:
            if package(name) == one:
                assert other not in {package(target) for target in OWN[name]}, name


def test_the_floor_below_the_families_does_not_know_the_training():
    for name in MODULES:
        if package(name) in ("families", "sampling"):
            assert "training" not in {package(target) for target in OWN[name]}, name


def test_no_import_goes_in_a_circle():
    graph = {name: set(targets) - {name} for name, targets in OWN.items() if package(name)}
    # a package's __init__ gathers its modules and its modules may pass through it: they are one node
    graph = {name: {t for t in targets if t != f"jaxgen.{package(name)}"} for name, targets in graph.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_only_the_networks_know_flax():
    users = {name for name, tree in TREES.items() if any(t.split(".")[0] == "flax" for t in imports(name, tree))}
    assert users and {package(name) for name in users} == {"nets"}


def own_lines(function):
    """Lines of a function's body, its docstring and the functions inside it left out: those are counted themselves."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    lines = set()
    for statement in body:
        lines |= set(range(statement.lineno, statement.end_lineno + 1))
    for inner in ast.walk(function):
        if inner is not function and isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            lines -= set(range(inner.lineno, inner.end_lineno + 1))
    return len(lines)


def test_functions_have_at_most_forty_lines():
    long = {
        f"{name}.{node.name}": own_lines(node)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and own_lines(node) > LONGEST
    }
    assert not long


def test_the_rules_would_notice():
    """The walk itself finds a lazy import, a relative one and a long function."""
    source = (
        "def f():\n    '''Doc.\n    Doc.'''\n    import flax.linen\n    from jaxgen import nets\n" + "    f()\n" * 40
    )
    tree = ast.parse(source)
    assert {"flax.linen", "jaxgen.nets"} <= set(imports("jaxgen.processes", tree))
    relative = ast.parse("from . import unet\nfrom ..types import check")
    assert set(imports("jaxgen.nets.mlp", relative)) == {"jaxgen.nets.unet", "jaxgen.types"}
    assert own_lines(tree.body[0]) == 42
