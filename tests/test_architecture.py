"""The rules of the house that a machine can hold: who may import whom, sizes, names, and that the map is true.

Knows nothing of behaviour. An exception to a cap is one named line below, with its reason.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "headrace"

MAY_IMPORT = {
    "core": "",
    "observe": "core",
    "kernels": "core",
    "models": "core kernels",
    "adapters": "core kernels models",
    "engine": "core observe kernels models adapters",
    "workshop": "core observe kernels models adapters",
    "memory": "core observe",
    "trust": "core observe",
    "api": "core",
    "gateway": "core observe memory trust api",
    "agents": "core observe memory trust",
    "server": "core observe api",
    "planner": "core",
    "loadtest": "core api gateway",
    "cli": "core observe kernels models adapters engine workshop memory trust api gateway agents server planner "
    "loadtest",
}
MAY_IMPORT_TORCH = {"workshop"}
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager"}

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 500
MAX_CPP_LINES = 800
MAX_POSITIONAL = 7

# "path" or "path:function" -> why the cap does not hold there.
EXCEPTIONS: dict[str, str] = {}

# Files that may catch everything and go on, because one failure there must not become everybody's.
MAY_CATCH_ALL = {
    "cli/node_signer.py": "each library of a vault or a KMS raises its own errors, and they become one of ours",
    "engine/engine.py": "a step that fails ends its batch, not the engine",
    "gateway/accounts/accounts.py": "a write that meets a defect is tried again, and what was settled stays in memory",
    "gateway/notary/notary.py": "a defect on the log's thread is told to those who wait, who would wait for ever",
    "gateway/batch_runner.py": "a line of a batch that meets a defect fails, not the others",
    "engine/guests.py": "a load that meets a defect fails those who wait for it, not the loader",
    "gateway/oversight/chain.py": "a defect of one overseer ends the request that it met, as a refusal",
    "gateway/oversight/recorder.py": "a defect loses one record, and ends its request only where records are enforced",
    "observe/trace_export.py": "whatever a collector and the way to it can do costs a batch of spans, not the thread",
    "gateway/background.py": "a background response that meets a defect fails alone, and not unseen",
    "gateway/oversight/theft_watch.py": "an input that meets a defect is not watched, the others are",
    "models/tokenizer.py": "the library raises nothing narrower than Exception",
    "server/app.py": "the boundary of a request",
    "server/feed.py": "the boundary of a streamed answer",
    "server/history.py": "a defect costs one sample of the history, not all that would follow",
    "server/sealing.py": "an answer that was made does not end by a defect of its record",
    "server/sockets.py": "the boundary of a WebSocket and of each of its turns",
}
MAY_READ_ENVIRONMENT = ("cli/", "engine/embedded.py")  # the composition roots
# `created` of answers, keys and models, the date that a template asks for, when a file was last used; everything else
# counts monotonic time.
MAY_READ_THE_DATE = (
    "core/clock.py",
    "observe/logs.py",
    "observe/engine_states.py",
    "observe/traces.py",
    "server/answers.py",
    "server/inputs.py",
    "server/history.py",
    "server/live.py",
    "models/template.py",
    "engine/kv/disk.py",
    "gateway/accounts/accounts.py",
    "gateway/conversation.py",
    "gateway/conversation_items.py",
    "gateway/response_run.py",
    "gateway/batch_runner.py",
    "gateway/batches.py",
    "gateway/accounts/",
    "gateway/actions.py",
    "gateway/gate.py",
    "gateway/oversight/record",
    "gateway/oversight/signing.py",
    "gateway/provenance.py",
    "gateway/notary/",
    "gateway/caches.py",
    "gateway/oversight/delegating.py",
    "gateway/oversight/endorsing.py",
    "gateway/gate.py",
    "gateway/oversight/theft.py",
    "memory/files.py",
    "server/keys.py",
    "server/credentials.py",
    "server/sessions.py",
    "server/workload_api.py",
    "gateway/workloads/",
    "gateway/upstreams/security.py",
    "trust/spiffe/issuer.py",
    "api/ollama_answers.py",
    "server/ollama.py",
    "cli/",
)

FILES = sorted(PACKAGE.rglob("*.py"))
CPP_FILES = sorted(path for suffix in ("*.cpp", "*.h") for path in PACKAGE.rglob(suffix))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def folder_of(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def imported_modules(path: Path, tree: ast.AST) -> Iterator[str]:
    """Full names of everything imported anywhere in the file, relative imports resolved."""
    package = ["headrace", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*prefix, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def illegal_imports(path: Path, tree: ast.AST) -> list[str]:
    folder = folder_of(path)
    if folder is None:  # headrace/__init__.py, __main__.py: the front door, which imports lazily
        return []
    allowed = {folder, *MAY_IMPORT[folder].split()}
    found = []
    for module in imported_modules(path, tree):
        parts = module.split(".")
        if parts[0] == "headrace" and len(parts) > 1 and parts[1] in MAY_IMPORT and parts[1] not in allowed:
            found.append(module)
        if parts[0] == "torch" and folder not in MAY_IMPORT_TORCH:
            found.append(module)
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_only_go_down_and_only_the_workshop_imports_torch(path: Path) -> None:
    assert illegal_imports(path, ast.parse(path.read_text("utf-8"))) == []


def test_every_folder_has_a_rule_and_no_rule_points_upwards() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= set(MAY_IMPORT)
    for folder, allowed in MAY_IMPORT.items():
        for lower in allowed.split():
            assert folder not in MAY_IMPORT[lower].split(), f"{folder} and {lower} may import each other"


@pytest.mark.parametrize(
    "source",
    [
        "from headrace.engine.engine import Engine",
        "import headrace.server.app",
        "def f():\n    from ..engine import engine",
        "def f():\n    from .. import cli",
        "from headrace import server",
        "def f():\n    import torch.nn",
    ],
)
def test_an_import_that_goes_up_is_found_wherever_and_however_it_is_written(source: str) -> None:
    assert illegal_imports(PACKAGE / "models" / "x.py", ast.parse(source)) != []


@pytest.mark.parametrize("path", [*FILES, *CPP_FILES], ids=name_of)
def test_no_file_has_a_name_that_says_nothing(path: Path) -> None:
    parts = [Path(part).stem for part in path.relative_to(PACKAGE).parts]
    assert BANNED_NAMES.isdisjoint(parts)


@pytest.mark.parametrize("path", [*FILES, *CPP_FILES], ids=name_of)
def test_files_stay_short_enough_to_read(path: Path) -> None:
    limit = MAX_FILE_LINES if path.suffix == ".py" else MAX_CPP_LINES
    length = len(path.read_text("utf-8").splitlines())
    assert length <= limit or name_of(path) in EXCEPTIONS, f"{length} lines; at most {limit}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_stay_short_with_few_positional_parameters(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        where = f"{name_of(path)}:{node.name}"
        if where in EXCEPTIONS:
            continue
        assert node.end_lineno is not None
        length = node.end_lineno - node.lineno + 1
        assert length <= MAX_FUNCTION_LINES, f"{where} has {length} lines; at most {MAX_FUNCTION_LINES}"
        positional = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args) if arg.arg not in {"self", "cls"}]
        assert len(positional) <= MAX_POSITIONAL, f"{where} takes {len(positional)}; put them in a frozen dataclass"


def catches_all(tree: ast.AST) -> bool:
    """Whether a handler takes every exception and does not end by raising the same one on."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        is_broad = any(kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in caught)
        last = node.body[-1]
        if is_broad and not (isinstance(last, ast.Raise) and last.exc is None):
            return True
    return False


def test_only_named_files_catch_everything() -> None:
    found = {name_of(path) for path in FILES if catches_all(ast.parse(path.read_text("utf-8")))}
    assert found == set(MAY_CATCH_ALL)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_composition_roots_read_the_environment(path: Path) -> None:
    names = {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
    assert names.isdisjoint({"environ", "getenv"}) or name_of(path).startswith(MAY_READ_ENVIRONMENT)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_wall_clock_which_may_jump_is_read_only_where_a_date_is_meant(path: Path) -> None:
    calls = {
        ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)
    }
    reads = {call for call in calls if call in {"time.time", "datetime.now"} or call.endswith(".unix_s")}
    assert not reads or name_of(path).startswith(MAY_READ_THE_DATE)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_opens_by_saying_what_it_owns(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


def test_an_exception_is_removed_when_its_subject_is_gone() -> None:
    for name in EXCEPTIONS:
        path, _, function = name.partition(":")
        source = (PACKAGE / path).read_text("utf-8")
        assert not function or re.search(rf"def {function}\b", source), name


def test_the_files_on_the_path_of_a_request_exist() -> None:
    map_text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = map_text.split("## The path of a request", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+(?:\.py)?)`", section)
    assert len(named) >= 7
    missing = [name for name in named if not (PACKAGE / name).exists()]
    assert missing == []


def test_the_tree_in_the_map_lists_exactly_the_folders_that_exist() -> None:
    map_text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    listed = set(re.findall(r"^  ([a-z]+)/ ", map_text, flags=re.MULTILINE))
    existing = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert listed == existing


def test_every_benchmark_file_has_its_question_in_the_list() -> None:
    bench = ROOT / "bench"
    listed = set(re.findall(r"^\| `([a-z_/]+\.py)` \|", (bench / "README.md").read_text("utf-8"), flags=re.MULTILINE))
    existing = {path.relative_to(bench).as_posix() for path in bench.rglob("*.py") if path.name != "__init__.py"}
    assert listed == existing
