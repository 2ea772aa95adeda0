#!/usr/bin/env bash
# Runs unit tests on an emulated ARM CPU: an arm64 Python from Debian's archive and the locked wheels, unpacked into
# build/arm (about 300 MB), and the native module cross-compiled for it. Installs nothing outside that folder.
# Arguments go to pytest; without any, all kernel tests run (about six minutes). `make test-arm` calls this.
set -euo pipefail
cd "$(dirname "$0")/.."

ARM=$PWD/build/arm
ROOT=$ARM/root
PYTHON=$ARM/python
HOST=.venv/bin/python

for tool in qemu-aarch64 aarch64-linux-gnu-g++ apt-get dpkg-deb; do
  if ! command -v "$tool" > /dev/null; then
    echo "$tool is missing; on Debian: apt-get install qemu-user g++-aarch64-linux-gnu" >&2
    exit 1
  fi
done

# An arm64 Python with everything it depends on, from this machine's package sources but with an apt state of its own.
unpack_python() {
  rm -rf "$ROOT" "$ARM/apt"
  mkdir -p "$ROOT" "$ARM/apt/lists/partial" "$ARM/apt/cache/archives/partial"
  touch "$ARM/apt/status"
  local options=(-qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Install-Recommends=0
    -o APT::Sandbox::User= -o Debug::NoLocking=1 -o Dir::State::lists="$ARM/apt/lists"
    -o Dir::State::status="$ARM/apt/status" -o Dir::Cache="$ARM/apt/cache")
  apt-get "${options[@]}" update
  apt-get "${options[@]}" install --download-only -y python3 libpython3-dev libstdc++6
  for package in "$ARM"/apt/cache/archives/*.deb; do dpkg-deb -x "$package" "$ROOT"; done
  touch "$ROOT/.done"
  rm -rf "$ARM/apt"
}

# Tests start further Pythons by sys.executable, which must be the emulated one.
write_launcher() {
  printf '#!/bin/sh\nexport PYTHONPATH="%s:%s" PYTHONDONTWRITEBYTECODE=1\nexec qemu-aarch64 -cpu "${ARM_CPU:-max}" -L "%s" "%s" "$@"\n' \
    "$ARM/package" "$ARM/site" "$ROOT" "$ROOT/usr/bin/python3" > "$PYTHON"
  chmod +x "$PYTHON"
  mkdir -p "$ARM/site"
  printf 'import sys\n\nsys.executable = "%s"\n' "$PYTHON" > "$ARM/site/sitecustomize.py"
}

install_wheels() {
  rm -rf "$ARM/site"
  local version platforms=()
  version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do
    platforms+=(--platform "${platform}_aarch64")
  done
  "$HOST" -m pip --disable-pip-version-check install --quiet --require-hashes --only-binary=:all: \
    "${platforms[@]}" --python-version "$version" --target "$ARM/site" -r requirements/serve.txt -r requirements/test.txt
  touch "$ARM/site/.done"
}

build_module() {
  "$HOST" -m cmake -S . -B "$ARM/native" -G Ninja -DCMAKE_MAKE_PROGRAM="$PWD/.venv/bin/ninja" \
    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DCMAKE_CXX_FLAGS="-idirafter $ROOT/usr/include" -DPython_EXECUTABLE="$PYTHON" \
    -DPython_INCLUDE_DIR="$(find "$ROOT/usr/include" -maxdepth 1 -name 'python3.*')" \
    -Dnanobind_ROOT="$("$HOST" -m nanobind --cmake_dir)" > "$ARM/configure.log"
  "$HOST" -m cmake --build "$ARM/native"
  rm -rf "$ARM/package"
  mkdir -p "$ARM/package"
  cp -r src/headrace "$ARM/package/"
  rm -f "$ARM"/package/headrace/kernels/*.so
  cp "$ARM"/native/src/headrace/kernels/native/native*.so "$ARM/package/headrace/kernels/"
}

mkdir -p "$ARM"
if [ ! -e "$ROOT/.done" ]; then unpack_python; fi
write_launcher
if [ ! "$ARM/site/.done" -nt requirements/test.txt ] || [ ! "$ARM/site/.done" -nt requirements/serve.txt ]; then
  install_wheels
  write_launcher
fi
build_module

# Which variants an ARM CPU finds, with the dot-product instructions and without.
expect_variants() {
  local found
  found=$(ARM_CPU=$1 "$PYTHON" -c 'from headrace.kernels import native; print(*native.variants())')
  if [ "$found" != "$2" ]; then
    echo "an emulated $1 finds the variants '$found' and not '$2'" >&2
    exit 1
  fi
}
expect_variants cortex-a53 "portable"
expect_variants max "neon portable"

exec "$PYTHON" -m pytest -p no:cacheprovider "${@:-tests/unit/kernels}"
