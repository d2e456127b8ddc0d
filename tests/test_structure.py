"""The house: a core that imports nothing but itself, in the order of reading, and no circles anywhere."""
from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "tinyres"

# The order of reading and of importing: each imports only from those before it. Folders are skipped.
CORE = ["support.context", "support.gpu", "backend", "kernel", "support.numerics", "support.names",
        "support.tensor_checks", "extras.methods", "tensor", "support.operation_checks", "arithmetic", "ops",
        "conv", "support.differences", "gradcheck", "support.extra_checks", "extras.functions",
        "extras.shaping", "extras.pooling", "extras.losses", "support.layer_checks", "support.generators",
        "module", "extras.layers", "nn", "models", "optim"]
READ = [name for name in CORE if "." not in name]  # the files at the top
ROOMS = ["support", "fast", "plot", "datasets", "distributed", "training", "pretrained", "theory",
         "lessons", "cli", "experiments"]
MAX_LINES = 300


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


def room(name: str) -> str:
    return name.split(".")[0]


def test_at_the_top_are_only_the_files_that_are_to_be_read():
    assert {name for name in files() if "." not in name and (PACKAGE / f"{name}.py").exists()} == set(READ)
    assert {room(name) for name in files()} == {*READ, *ROOMS, "extras"}


def test_every_folder_says_what_it_is():
    for folder in {path.parent for path in files().values()} - {PACKAGE}:
        opening = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert opening, f"{folder.name}/__init__.py has no opening docstring"


def test_the_core_imports_only_upwards_and_nothing_else():
    for position, name in enumerate(CORE):
        path = PACKAGE / (name.replace(".", "/") + ".py")
        assert imports(path) <= set(CORE[:position]), name


def test_every_room_imports_only_from_rooms_before_it():
    for name, path in files().items():
        if name not in CORE and room(name) in ROOMS:
            rooms = {room(imported) for imported in imports(path) if imported not in CORE}
            assert rooms <= set(ROOMS[:ROOMS.index(room(name)) + 1]), f"{name} imports from {sorted(rooms)}"


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
        text = (PACKAGE / (name.replace(".", "/") + ".py")).read_text()
        for word in "winograd", "loss_scale", "tf32", "capture", "parallel_map", "grad_memory":
            assert word not in text.lower(), f"{name}.py mentions {word}"


def test_a_program_ends_without_a_word_when_nobody_reads_its_output():
    for name, path in files().items():
        if "if __name__ ==" in (text := path.read_text()):
            assert "run_script(main)" in text or "end_with_reader()" in text, name


def test_no_file_is_longer_than_a_reader_likes():
    for name, path in files().items():
        assert len(path.read_text().splitlines()) <= MAX_LINES, name


def test_no_file_imports_what_another_keeps_to_itself():
    for name, path in files().items():
        private = [alias.name for node in ast.walk(ast.parse(path.read_text()))
                   if isinstance(node, ast.ImportFrom) for alias in node.names if alias.name.startswith("_")]
        assert not private, f"{name} imports {private}"
