"""Where Headrace keeps things on disk, and how a model's name becomes a path there.

    <home>/                 0700, because keys.toml and later conversations live here
        models/<name>/      one folder per pulled model, complete or absent
        models/.partial/    downloads under way; safe to delete when no pull runs
        packed/             repacked weights, a cache: delete at will
        kv/                 pages of finished prompts, if `--disk-cache on`: delete at will
        files/                  callers' files (`memory/files.py`)
        accounts/               the journal of what was reserved and spent (`memory/journal.py`)
        batches.lock            held by the server that runs batches
        identity/               the keys of the issuer of SVIDs (`memory/authority_file.py`)
        headrace.db         state database (`memory/database.py`)
        delegations.db      revoked delegations, and what was done under others (`memory/delegations.py`)
        endorsements.db     endorsements of tool calls that hold (`memory/endorsements.py`)
        delegation.pem      the root key of delegations (`cli/delegation.py`)
        keys.toml           hashed API keys (`cli/keys.py`)
        keys/               secret keys that sign, 0600 each; made at the first start that needs one
        provenance.db       what was logged, and what can be erased of it (`memory/provenance.py`)
        log/                the transparency log: checkpoint, tiles, entry bundles (`memory/log_files.py`)

Knows paths only: it opens no model, no database and no network. The environment is passed in,
because only `cli` reads it.
"""

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.core.errors import ModelFileError, NotFound
from headrace.models.catalog import ALIASES, CATALOG, canonical_name

_PRIVATE = 0o700


@dataclass(frozen=True, slots=True)
class Layout:
    """The places inside one state directory."""

    home: Path

    @property
    def models(self) -> Path:
        """Pulled models, one folder each."""
        return self.home / "models"

    @property
    def partial(self) -> Path:
        """Downloads that have not finished."""
        return self.models / ".partial"

    @property
    def packed(self) -> Path:
        """Repacked weights; a cache."""
        return self.home / "packed"

    @property
    def kv(self) -> Path:
        """Pages of the prefix cache's disk tier; made when the first is written."""
        return self.home / "kv"

    @property
    def files(self) -> Path:
        """Callers' files."""
        return self.home / "files"

    @property
    def accounts(self) -> Path:
        """The journal of what was reserved and spent."""
        return self.home / "accounts"

    @property
    def identity(self) -> Path:
        """The keys of the issuer of SVIDs."""
        return self.home / "identity"

    @property
    def batches_lock(self) -> Path:
        """Held by the one server that runs batches."""
        return self.home / "batches.lock"

    @property
    def database(self) -> Path:
        """The state database."""
        return self.home / "headrace.db"

    @property
    def keys(self) -> Path:
        """Hashed API keys."""
        return self.home / "keys.toml"

    @property
    def signing_keys(self) -> Path:
        """Secret keys that sign; made when the first is."""
        return self.home / "keys"

    @property
    def session_key(self) -> Path:
        """What sealed the console's sessions."""
        return self.signing_keys / "console.key"

    @property
    def delegations(self) -> Path:
        """What is kept of delegations."""
        return self.home / "delegations.db"

    @property
    def endorsements(self) -> Path:
        """What is kept of endorsements."""
        return self.home / "endorsements.db"

    @property
    def delegation_key(self) -> Path:
        """The root key of delegations, where the settings name no other."""
        return self.home / "delegation.pem"

    @property
    def provenance(self) -> Path:
        """What was logged."""
        return self.home / "provenance.db"

    @property
    def log(self) -> Path:
        """The transparency log's files."""
        return self.home / "log"


def default_home(environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    """The state directory that `environ` asks for; it need not exist yet."""
    if named := environ.get("HEADRACE_HOME"):
        return Path(named).expanduser()
    # The XDG specification says that relative paths are to be ignored.
    if (data := environ.get("XDG_DATA_HOME")) and Path(data).is_absolute():
        return Path(data) / "headrace"
    user = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    if platform == "darwin":
        return user / "Library" / "Application Support" / "headrace"
    return user / ".local" / "share" / "headrace"


def open_home(home: Path) -> Layout:
    """Create the state directory (0700) if need be and return its layout.

    Raises ModelFileError with a remedy if it cannot be created.
    """
    layout = Layout(home)
    try:
        home.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        for folder in (layout.models, layout.packed):
            folder.mkdir(mode=_PRIVATE, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise ModelFileError(
            f"The state directory {home} cannot be created ({reason}); "
            "set HEADRACE_HOME or --home to a folder that you may write to."
        ) from error
    return layout


def installed_names(home: Path) -> list[str]:
    """Names of the models that are installed completely, sorted."""
    models = Layout(home).models
    if not models.is_dir():
        return []
    return sorted(folder.name for folder in models.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def resolve(name_or_path: str, home: Path) -> Path:
    """The model file (or safetensors folder) that a name, an alias or a path stands for.

    Raises NotFound naming the nearest known model, or the pull that would install it.
    """
    name = canonical_name(name_or_path)
    folder = Layout(home).models / name if _is_plain(name) else None
    if folder is not None and folder.is_dir():
        return _model_in(folder)
    path = Path(name_or_path).expanduser()
    if path.exists():
        return _model_in(path) if path.is_dir() else path
    if name in CATALOG:
        raise NotFound(
            f"Model {name} is not installed in {home}; run `headrace pull {name}` first.", code="model_not_found"
        )
    if _looks_like_path(name_or_path):
        raise NotFound(
            f"There is no model file {name_or_path}; check the path, or see `headrace models` for names.",
            code="model_not_found",
        )
    raise NotFound(_unknown(name_or_path, home), code="model_not_found")


def _is_plain(name: str) -> bool:
    return bool(name) and "/" not in name and "\\" not in name and not name.startswith(".")


def _looks_like_path(text: str) -> bool:
    return "/" in text or text.endswith((".gguf", ".safetensors"))


def _model_in(folder: Path) -> Path:
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if not files and any(folder.glob("*.safetensors")):
        return folder
    found = ", ".join(file.name for file in files) or "no *.gguf and no *.safetensors"
    raise ModelFileError(f"{folder} should hold one model but holds {found}; name the file itself.")


def _unknown(name: str, home: Path) -> str:
    known = sorted({*CATALOG, *ALIASES, *installed_names(home)})
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
    return f"No model is called {name}; {hint} A path to a GGUF file works too."
