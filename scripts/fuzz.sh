#!/bin/sh
# Builds the fuzz targets and runs them for SECONDS in all, each from its seeds. What they find goes to build/fuzz/found.
#   scripts/fuzz.sh [SECONDS]
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}

names=""
count=0
for source in tests/fuzz/*_fuzz.cpp; do
  names="$names $(basename "$source" .cpp)"
  count=$((count + 1))
done

[ -f build/fuzz/build.ninja ] || cmake --preset fuzz >/dev/null
# Not all: the targets need the parsers alone, and clang takes minutes for the kernels with these checks.
# shellcheck disable=SC2086
cmake --build --preset fuzz --target $names

mkdir -p build/fuzz/found
for name in $names; do
  echo "fuzz: $name, $((seconds / count)) s"
  mkdir -p "build/fuzz/inputs/$name"
  "build/fuzz/tests/fuzz/$name" -max_total_time=$((seconds / count)) -timeout=10 -rss_limit_mb=2048 \
    -verbosity=0 -print_funcs=0 -artifact_prefix="build/fuzz/found/$name-" \
    "build/fuzz/inputs/$name" "tests/fuzz/corpus/$name" </dev/null
done
