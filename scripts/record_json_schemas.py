"""Records the JSON-Schema-Test-Suite (MIT, Copyright 2012 Julian Berman), for tests/oracle/test_json_schema_suite.py.

The suite comes inside the source distribution of the package `jsonschema`:

    pip download --no-deps --no-binary jsonschema jsonschema==4.26.0
    .venv/bin/python scripts/record_json_schemas.py jsonschema-4.26.0.tar.gz

Drafts 7 and 2020-12 without their optional parts: every schema with its instances, and whether each is valid.
"""

import gzip
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[1] / "tests" / "oracle" / "vectors" / "json_schema_suite.json.gz"
DRAFTS = ("draft7", "draft2020-12")


def read(archive: tarfile.TarFile, name: str) -> bytes:
    """One file of the distribution."""
    member = archive.extractfile(name)
    assert member is not None, name
    return member.read()


def main(path: Path) -> None:
    """Write the vectors."""
    cases: list[dict[str, Any]] = []
    with tarfile.open(path) as archive:
        names = sorted(archive.getnames())
        root = names[0].split("/", 1)[0]
        for draft in DRAFTS:
            folder = f"{root}/json/tests/{draft}/"
            for name in names:
                rest = name.removeprefix(folder)
                if not name.startswith(folder) or "/" in rest or not rest.endswith(".json"):
                    continue
                for case in json.loads(read(archive, name)):
                    instances = [{"data": test["data"], "valid": test["valid"]} for test in case["tests"]]
                    told = f"{rest.removesuffix('.json')}: {case['description']}"
                    cases.append({"draft": draft, "name": told, "schema": case["schema"], "instances": instances})
        text = read(archive, f"{root}/json/LICENSE").decode()
    recorded = {"source": root, "license": text, "cases": cases}
    data = json.dumps(recorded, ensure_ascii=True, separators=(",", ":")).encode()
    VECTORS.write_bytes(gzip.compress(data, 9, mtime=0))
    print(f"{len(cases)} schemas, {VECTORS.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
