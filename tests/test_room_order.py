"""Every module imports only from its own room and from those before it, and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = {
    "icm_fast": REPOSITORY / "python" / "icm_fast",
    "icm_fast.kernels": REPOSITORY / "kernels",
}

ORDER = (
    ("_core", "errors"),
    ("types", "files", "documents"),
    ("config", "identity", "distributed", "assets"),
    ("plan", "tracking"),
    ("tasks",),
    ("kernels",),
    ("model",),
    ("scoring",),
    ("runs",),
    ("engine",),
    ("cluster",),
    ("evaluation",),
    ("export",),
    ("labelling",),
    ("training",),
    ("experiments",),
    ("reports",),
    ("cli",),
    ("__main__",),
)
"""The rooms from the ground up; ARCHITECTURE.md says what each is for."""

LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}

Modules = dict[str, str]
"""From the dotted names of modules to their source."""


def package_modules() -> Modules:
    found = {}
    for root, folder in SOURCES.items():
        for path in [*folder.rglob("*.py"), *folder.glob("*.pyi")]:
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((root, *parts)).removesuffix(".__init__")
            found[name] = path.read_text(encoding="utf-8")
    return found


def imports(name: str, modules: Modules, *, everywhere: bool) -> Iterable[str]:
    """Modules of the package that ``name`` imports: anywhere, or while it is being imported."""
    tree = ast.parse(modules[name])
    for node in ast.walk(tree) if everywhere else executed(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: write imports in full"
            names = [node.module or ""]
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [w if w in modules else names[0] for w in whole]
        else:
            continue
        yield from (imported for imported in dict.fromkeys(names) if imported in modules)


def executed(tree: ast.Module) -> Iterable[ast.stmt]:
    """Statements that run at import: not those of functions, nor those for type checkers."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While):
            waiting += [part for part in ast.walk(node) if isinstance(part, ast.stmt)][1:]
        elif isinstance(node, ast.ClassDef):
            waiting += node.body


def room(name: str) -> str:
    return name.split(".")[1]


def upward(modules: Modules) -> list[str]:
    """Imports against the order, also those inside functions and those for type checkers."""
    return sorted(
        f"{name} imports {imported}"
        for name in modules
        if name != "icm_fast"  # the door: it names what is public and loads it when asked for
        for imported in imports(name, modules, everywhere=True)
        if imported == "icm_fast" or LEVEL[room(imported)] > LEVEL[room(name)]
    )


def circle(modules: Modules) -> list[str]:
    """One circle of imports that run while modules are imported, or nothing."""
    done: set[str] = set()
    for start in sorted(modules):
        path: list[str] = []
        stack = [(start, iter(imports(start, modules, everywhere=False)))]
        while stack:
            name, rest = stack[-1]
            if name not in path:
                path.append(name)
            following = next((n for n in rest if n not in done), None)
            if following is None:
                done.add(path.pop())
                stack.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            else:
                stack.append((following, iter(imports(following, modules, everywhere=False))))
    return []


def test_every_module_is_in_a_room():
    assert {room(name) for name in package_modules() if name != "icm_fast"} == set(LEVEL)


def test_imports_follow_the_order():
    assert upward(package_modules()) == []


def test_no_circle():
    assert circle(package_modules()) == []


PLANTED = [
    ("icm_fast.plan.pieces", "from icm_fast.engine import search"),
    ("icm_fast.types", "def late():\n    import icm_fast.scoring.local"),
    ("icm_fast.kernels.tree_attention.naive", "from icm_fast.model.load import load_model"),
    ("icm_fast.evaluation.gold", "import icm_fast"),
]


@pytest.mark.parametrize(("module", "code"), PLANTED)
def test_an_import_against_the_order_is_found(module, code):
    modules = package_modules()
    modules[module] += f"\n{code}\n"
    (found,) = upward(modules)
    assert found.startswith(f"{module} imports icm_fast")


def test_a_circle_is_found():
    modules = package_modules()
    modules["icm_fast.plan.pieces"] += "\nfrom icm_fast.plan.leave_one_out import plan_pieces\n"
    found = circle(modules)
    assert found[0] == found[-1]
    assert {"icm_fast.plan.pieces", "icm_fast.plan.leave_one_out"} <= set(found)


def test_few_modules_stand_outside_the_rooms():
    assert len(list(SOURCES["icm_fast"].glob("*.py"))) <= 8


def test_no_symbolic_link_in_the_tree():
    skipped = {".git", ".venv", ".peers", "build", "dist"}
    tops = [path for path in REPOSITORY.iterdir() if path.name not in skipped]
    inside = [inner for top in tops if top.is_dir() for inner in top.rglob("*")]
    assert [path for path in (*tops, *inside) if path.is_symlink()] == []
