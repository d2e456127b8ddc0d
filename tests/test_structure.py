"""The house: a core that imports nothing but itself, in the order of reading, and no circles anywhere."""
from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "tinyres"

# The order of reading. Each room imports from those before it, and from itself.
CORE = ["backend", "tensor", "checks", "arithmetic", "ops", "conv", "gradcheck", "more_ops", "methods",
        "layer_checks", "module", "more_layers", "nn", "models", "optim"]
ROOMS = [*CORE, "fast", "files", "plot", "datasets", "distributed", "processes",
         "training", "pretrained", "theory",
         "lessons", "options", "scripts", "cli", "experiments"]
MAX_LINES = 300
# One section of the paper each: theorems, proofs and what they need of one another read better in one piece.
LONGER = {"theory.linear", "theory.expressivity"}


def imports(path: Path) -> set[str]:
    """The project's modules that a file imports, inside functions and for type checking too: dotted names."""
    package = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("tinyres.") for alias in node.names
                      if alias.name.split(".")[0] == "tinyres"}
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("tinyres")):
            if node.level:
                base = package[:len(package) - node.level + 1]
            else:
                base = tuple(node.module.split(".")[1:])
            base = ".".join((*base, *(node.module.split(".") if node.level and node.module else ())))
            found |= {f"{base}.{alias.name}".strip(".") for alias in node.names}
    return {module(name) for name in found}


def module(name: str) -> str:
    """The module in which a dotted name is: itself, or what it is imported from."""
    while name and not (PACKAGE / (name.replace(".", "/") + ".py")).exists():
        if (PACKAGE / name.replace(".", "/") / "__init__.py").exists():
            return name
        name = name.rpartition(".")[0]
    return name


def files() -> dict[str, Path]:
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
            for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"}


def test_every_file_has_a_room():
    assert {name.split(".")[0] for name in files()} == set(ROOMS)


def test_the_core_imports_only_upwards_and_nothing_else():
    for position, name in enumerate(CORE):
        assert imports(PACKAGE / f"{name}.py") <= set(CORE[:position]), name


def test_every_room_imports_only_from_rooms_before_it():
    for name, path in files().items():
        room = name.split(".")[0]
        rooms = {imported.split(".")[0] for imported in imports(path)}
        assert rooms <= set(ROOMS[:ROOMS.index(room) + 1]), f"{name} imports from {sorted(rooms)}"


def test_there_are_no_circles():
    graph = {name: imports(path) - {name} for name, path in files().items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a circle: {' -> '.join((*above, name))}"
        if name not in done:
            for imported in graph.get(name, ()):
                visit(imported, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_core_names_no_variant_and_no_precision():
    for name in CORE:
        text = (PACKAGE / f"{name}.py").read_text()
        for word in "winograd", "loss_scale", "tf32", "capture", "parallel_map", "grad_memory":
            assert word not in text.lower(), f"{name}.py mentions {word}"


def test_no_file_is_longer_than_a_reader_likes():
    for name, path in files().items():
        assert len(path.read_text().splitlines()) <= MAX_LINES or name in LONGER, name
