"""A model's folder out of a zip file that somebody packed: the files we know, and nothing else.

The archive is not believed: names are held against those of a model's folder, so that none leads outside, and all sizes
together against what was promised before a byte is written. Knows no network and no catalog.
"""

import zipfile
from pathlib import Path

from headrace.core.errors import ModelFileError
from headrace.models.download import Progress
from headrace.models.sources import is_wanted

_CHUNK_BYTES = 1 << 20


def extract(archive: Path, folder: Path, promised_bytes: int | None, progress: Progress) -> None:
    """Write the model's files into `folder`.

    Raises ModelFileError for an archive that cannot be read, holds a file twice or none, or is not of the size that was
    promised.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [info for info in packed.infolist() if is_wanted(info.filename)]
            _check(members, promised_bytes)
            for info in members:
                target = folder / info.filename
                target.parent.mkdir(mode=0o700, exist_ok=True)
                with packed.open(info) as source, target.open("xb") as file:
                    # file_size is the archive's claim; zipfile stops there and checks the CRC: a bomb cannot exceed it.
                    done = 0
                    while chunk := source.read(_CHUNK_BYTES):
                        file.write(chunk)
                        done += len(chunk)
                        progress(f"unpacking {target.name}", done, info.file_size)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ModelFileError(f"{archive.name} is not a readable archive ({error}); nothing was installed.") from error


def _check(members: list[zipfile.ZipInfo], promised_bytes: int | None) -> None:
    names = [info.filename for info in members]
    total = sum(info.file_size for info in members)
    if not names or len({*names}) != len(names):
        raise ModelFileError(f"the archive holds {', '.join(names) or 'no model'}; nothing was installed.")
    if promised_bytes is not None and total != promised_bytes:
        raise ModelFileError(
            f"the archive's files are {total} bytes instead of {promised_bytes}; nothing was installed."
        )
