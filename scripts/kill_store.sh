#!/bin/sh
# Kills a writer of a record store at random points, COUNT times; the test suite does it 200 times.
#   scripts/kill_store.sh [COUNT]
set -eu
cd "$(dirname "$0")/.."
SWITCHYARD_KILLS=${1:-1000} build/release/tests/record_store_failures_test --gtest_filter='*KilledWriter*'
