#!/bin/sh
# Builds the fuzz targets and runs them for SECONDS in all, each from its seeds. What they find goes to build/fuzz/found.
#   scripts/fuzz.sh [SECONDS]
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}

[ -f build/fuzz/build.ninja ] || cmake --preset fuzz >/dev/null
cmake --build --preset fuzz
targets=$(find build/fuzz/tests/fuzz -maxdepth 1 -type f -name '*_fuzz')
[ -n "$targets" ] || { echo "fuzz: found no targets below build/fuzz/tests/fuzz, expected some" >&2; exit 1; }

each=$((seconds / $(echo "$targets" | wc -l)))
mkdir -p build/fuzz/found
for target in $targets; do
  name=${target##*/}
  mkdir -p "build/fuzz/inputs/$name"
  echo "fuzz: $name, $each s"
  "$target" -max_total_time="$each" -timeout=10 -rss_limit_mb=2048 -print_final_stats=0 -verbosity=0 \
    -artifact_prefix="build/fuzz/found/$name-" "build/fuzz/inputs/$name" "tests/fuzz/corpus/$name" </dev/null
done
