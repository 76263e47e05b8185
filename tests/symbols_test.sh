#!/bin/sh
# symbols_test.sh NM COMPILER_FLAGS OBJECT...
# Code for one instruction set must not leak into the rest of the program: the linker keeps one copy of an inline
# function, and if that is the copy compiled for AVX-512, older processors fail in places that never chose it. So each
# kernel object defines its table alone and needs nothing but the C library.
set -eu
nm=$1
flags=$2
shift 2

case $flags in
*-fsanitize* | *--coverage*)
  echo "skipped: instrumented objects have symbols of their own ($flags)"
  exit 77
  ;;
esac
if [ $# -eq 0 ]; then
  echo "symbols: found no kernel objects, expected one per instruction set"
  exit 1
fi

failed=0
for object in "$@"; do
  # The last two: position-independent addresses, and what some compilers add to functions with arrays.
  "$nm" -P "$object" | awk -v object="${object##*/}" '
    BEGIN {
      count = split("memcpy memset memmove fmaf _GLOBAL_OFFSET_TABLE_ __stack_chk_fail", names, " ")
      for (i = 1; i <= count; ++i) allowed[names[i]] = 1
    }
    $2 == "U" {
      if (!($1 in allowed)) { print "symbols: " object " needs " $1 ", expected the C library alone"; bad = 1 }
      next
    }
    $2 ~ /[WwVvu]/ { print "symbols: " object " has the weak symbol " $1 ", expected none"; bad = 1; next }
    $2 ~ /[A-Z]/ {
      ++defined
      if ($1 !~ /k(Record)?Kernels/) { print "symbols: " object " defines " $1 ", expected its table alone"; bad = 1 }
    }
    END {
      if (defined != 1) { print "symbols: " object " defines " defined + 0 " global symbols, expected 1"; bad = 1 }
      exit bad
    }' || failed=1
done
[ $failed -eq 0 ] && echo "$# objects"
exit $failed
