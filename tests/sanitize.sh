#!/usr/bin/env bash
# The hosted tests under AddressSanitizer, which looks at what unsafe code does with the process's memory: locks, threads, pages lent to
# devices, buffers that a device fills. Needs the nightly compiler; its precompiled standard library will do.
# usage: tests/sanitize.sh [ARGUMENTS OF cargo test]; without any: locks, memory and threads of the base, disks and wires of the host, sockets
# and their protocols, and the hosted column of the suite.
# tests/sanitize.sh thread [ARGUMENTS OF cargo test]: under ThreadSanitizer; without any, the base: its locks, threads, memory and callouts.
#
# ThreadSanitizer should see the standard library's own code, which would have to be built from its source (`-Zbuild-std`); the plain
# toolchain does not bring that. So what std itself keeps in order (its locks, channels, the last handle of an `Arc`) is taken for races,
# and is left out by tests/tsan.suppressions. The kernel's own locks and atomics are seen; races that std would prevent are not told
# from those that it would not.
set -euo pipefail
cd "$(dirname "$0")/.."

target=x86_64-unknown-linux-gnu
built=${CARGO_TARGET_DIR:-target}
if [ "${1:-}" = thread ]; then
    shift
    export CARGO_TARGET_DIR=$built/sanitize-thread
    # The standard library is mixed in as it is, on purpose.
    export RUSTFLAGS='-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer -Cforce-frame-pointers=yes'
    export TSAN_OPTIONS="suppressions=$PWD/tests/tsan.suppressions"
    [ $# -gt 0 ] || set -- -p rumpkern --lib
    exec cargo +nightly test --target "$target" "$@"
fi
export CARGO_TARGET_DIR=$built/sanitize
export RUSTFLAGS='-Zsanitizer=address -Cforce-frame-pointers=yes'
# Kernels, hosts and devices live as long as the process: what is never freed is no finding here.
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=1

if [ $# -gt 0 ]; then
    exec cargo +nightly test --target "$target" "$@"
fi
cargo +nightly test --target "$target" -p rumpkern -p rumpuser_hosted -p rumpnet -p rumpnet_virtif -p rumpnet_netinet --lib --tests
cargo +nightly test --target "$target" -p rump-tests --test suite -- hosted::
