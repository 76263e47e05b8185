#!/bin/sh
# Installs what building and testing needs. Says nothing when nothing is missing.
#   scripts/setup.sh [MORE_PACKAGES...]
set -eu

missing=""

# at_least FOUND WANTED: compares versions.
at_least() {
  [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

need_tool() { # COMMAND PACKAGE
  command -v "$1" >/dev/null || missing="$missing $2"
}

need_tool "${CXX:-g++}" g++
need_tool cmake cmake
need_tool ninja ninja-build
need_tool python3 python3
need_tool make make

# Elsewhere than on Debian and its kin, CMake finds the libraries or says which one is missing.
if command -v dpkg-query >/dev/null; then
  packages="nlohmann-json3-dev libcli11-dev libfmt-dev libgtest-dev librapidcheck-dev libbenchmark-dev libsimde-dev
    libhwloc-dev libsimdjson-dev libsqlite3-dev
    libxxhash-dev libzstd-dev pkg-config $*"
  # shellcheck disable=SC2086
  installed=$(dpkg-query -W -f '${Status} ${Package}\n' $packages 2>/dev/null | sed -n 's/^install ok installed //p')
  for package in $packages; do
    echo "$installed" | grep -qxF "$package" || missing="$missing $package"
  done
fi

if [ -n "$missing" ]; then
  root=""
  if [ "$(id -u)" -ne 0 ]; then
    root="sudo -n"
  fi
  if ! command -v apt-get >/dev/null || ! $root true 2>/dev/null; then
    echo "setup: missing:$missing; install them, e.g. sudo apt-get install$missing" >&2
    exit 1
  fi
  echo "setup: installing$missing"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  options="-qq -o DPkg::Lock::Timeout=120"
  # shellcheck disable=SC2086
  if ! { $root apt-get $options update &&
    $root env DEBIAN_FRONTEND=noninteractive apt-get $options install -y --no-install-recommends $missing; } \
    >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    echo "setup: apt-get could not install$missing" >&2
    exit 1
  fi
fi

compiler=${CXX:-g++}
case ${compiler##*/} in
g++*)
  version=$("$compiler" -dumpfullversion)
  at_least "$version" 12 || {
    echo "setup: $compiler is version $version, expected 12 or later; install one and set CXX and CC to it" >&2
    exit 1
  }
  ;;
esac
version=$(cmake --version | sed -n '1s/[^0-9]*//p')
at_least "$version" 3.22 || {
  echo "setup: cmake is version $version, expected 3.22 or later" >&2
  exit 1
}
