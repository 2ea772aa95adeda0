"""Model signatures at the door: what is loaded is looked at first, and refused or warned of as the settings say.

Finds a signature beside its model, reads keys, lists and hashes files; `trust/supply` judges. A file that changes
between the look and the end of the loading is noticed: what was looked at is what is in memory.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from headrace.core.errors import InvalidRequest, ModelFileError
from headrace.models.digest import DigestMemory, Hasher, Stamp, sha256_of
from headrace.models.tree import TreeFile, digests_of, list_files, stamps_of
from headrace.trust.supply.check import Found, find_faults, find_unsafe
from headrace.trust.supply.settings import Mode, SupplySettings
from headrace.trust.supply.signer import Trusted, check_signer, read_key
from headrace.trust.supply.statement import BadSignature, read_manifest, read_signature

FOLDER_SIGNATURE: Final = "model.sig"
FILE_SUFFIX: Final = ".sig"

_T = TypeVar("_T")
_logger = logging.getLogger("headrace.models")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found of a model: who signed it (empty: nobody who counts), the digest of its signed files, and
    everything that is wrong. `stamps` are of the files that were looked at."""

    path: Path
    signature: Path | None = None
    signer: str = ""
    root: str = ""
    faults: tuple[str, ...] = ()
    files: tuple[TreeFile, ...] = ()
    stamps: tuple[Stamp, ...] = ()


class SignatureGate:
    """Looks at models before they are loaded. Raises InvalidRequest for settings that name no keys."""

    def __init__(self, settings: SupplySettings, cache_dir: Path | None) -> None:
        self.mode = settings.mode
        self._trusted = read_trusted(settings) if settings.mode is not Mode.OFF else Trusted()
        self._hasher: Hasher = sha256_of if cache_dir is None else DigestMemory(cache_dir)

    def check(self, path: Path) -> Checked:
        """Everything there is to say of a model or an adapter. Raises ModelFileError only if it cannot be read."""
        signature = find_signature(path)
        root = path if signature is None or signature.name != FOLDER_SIGNATURE else signature.parent
        files = list_files(root)
        stamps = stamps_of(files)
        found = [Found(one.name, one.is_link, one.target) for one in files]
        if signature is None:
            faults = (f"there is no {FOLDER_SIGNATURE} and no {path.name}{FILE_SUFFIX}", *find_unsafe(found))
            return Checked(path=path, faults=faults, files=files, stamps=stamps)
        try:
            read = read_signature(signature.read_bytes())
            signer, manifest = check_signer(read, self._trusted), read_manifest(read.payload)
        except OSError as error:
            raise ModelFileError(f"{signature}: cannot be read ({error.strerror or error}).") from error
        except BadSignature as error:
            faults = (f"its signature is not valid: {error}",)
            return Checked(path=path, signature=signature, faults=faults, files=files, stamps=stamps)
        own = signature.relative_to(root).as_posix() if signature.is_relative_to(root) else ""
        digests = digests_of([one for one in files if one.name in manifest.files], self._hasher)
        return Checked(
            path=path,
            signature=signature,
            signer=signer,
            root=manifest.root,
            faults=tuple(find_faults(manifest, found, own, digests.__getitem__)),
            files=files,
            stamps=stamps,
        )

    def admit(self, path: Path) -> Checked | None:
        """Refuse what may not be loaded, or warn of it. None: nothing was looked at. Raises ModelFileError."""
        if self.mode is Mode.OFF:
            return None
        checked = self.check(path)
        if not checked.faults:
            _logger.info("%s was signed by the %s: %s", path, checked.signer, checked.root)
            return checked
        shown = "; ".join(checked.faults[:5])
        if len(checked.faults) > 5:
            shown += f"; and {len(checked.faults) - 5} more"
        if self.mode is Mode.ENFORCE:
            raise ModelFileError(
                f"{path}: is not as somebody who is trusted signed it: {shown}. Get it again from its publisher, or "
                "sign it with `headrace models sign`; model_signatures.mode says that such models are not loaded."
            )
        _logger.warning("%s is loaded, but is not as somebody who is trusted signed it: %s", path, shown)
        return checked

    def load(self, path: Path, load: Callable[[], _T]) -> _T:
        """What `load` makes of a model that may be loaded. Raises ModelFileError, also if a file changed meanwhile."""
        checked = self.admit(path)
        loaded = load()
        if checked is not None and self.mode is Mode.ENFORCE and stamps_of(checked.files) != checked.stamps:
            raise ModelFileError(f"{path}: its files changed while they were loaded; nothing of it is used. Try again.")
        return loaded


def find_signature(path: Path) -> Path | None:
    """The signature that lies beside a model: of the file alone, else of the folder that it is or lies in."""
    folder = path if path.is_dir() else path.parent
    for found in (path.with_name(path.name + FILE_SUFFIX), folder / FOLDER_SIGNATURE):
        if found.is_file():
            return found
    return None


def read_trusted(settings: SupplySettings) -> Trusted:
    """The keys and authorities that settings name. Raises InvalidRequest."""
    from cryptography import x509

    keys, authorities = [], []
    for path in settings.keys:
        try:
            keys.append(read_key(_read(path, "keys")))
        except ValueError as error:
            raise InvalidRequest(f"model_signatures.keys: {path} {error}.", param="model_signatures.keys") from error
    for path in settings.authorities:
        try:
            authorities += x509.load_pem_x509_certificates(_read(path, "authorities"))
        except ValueError as error:
            raise InvalidRequest(
                f"model_signatures.authorities: {path} holds no certificates in PEM.",
                param="model_signatures.authorities",
            ) from error
    return Trusted(keys=tuple(keys), authorities=tuple(authorities), signers=settings.signers)


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(
            f"model_signatures.{field}: {path} cannot be read ({error.strerror or error}); correct the path.",
            param=f"model_signatures.{field}",
        ) from error
