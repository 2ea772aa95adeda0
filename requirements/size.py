"""Prints the size of the wheels that a lock file downloads, largest first, and fails above the limit.

Asks pip to resolve the file for this machine without installing anything, and the index for each wheel's size.
"""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

LIMIT_BYTES = 100_000_000


def wheel_size(url: str) -> int:
    """Bytes of one wheel, from the index's answer to HEAD or from the disk."""
    if url.startswith("file:"):
        return Path(urllib.request.url2pathname(url.removeprefix("file://"))).stat().st_size
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - an address that pip resolved
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return int(answer.headers["Content-Length"])


def main(lock: str) -> int:
    """Print the table; 1 if the sum is above the limit."""
    command = [sys.executable, "-m", "pip", "--quiet", "install", "--dry-run", "--ignore-installed", "--no-deps"]
    command += ["--require-hashes", "--report", "-", "-r", lock]
    result = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - a fixed command
    report = json.loads(result.stdout)
    sizes = {
        item["metadata"]["name"]: wheel_size(item["download_info"]["url"].partition("#")[0])
        for item in report["install"]
    }
    for name, size in sorted(sizes.items(), key=lambda pair: -pair[1]):
        print(f"{size / 1e6:8.2f} MB  {name}")
    total = sum(sizes.values())
    print(f"{total / 1e6:8.2f} MB  in {len(sizes)} wheels; the limit is {LIMIT_BYTES / 1e6:.0f} MB")
    return int(total > LIMIT_BYTES)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
