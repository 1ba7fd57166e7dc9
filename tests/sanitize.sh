#!/usr/bin/env bash
# The hosted tests under AddressSanitizer, which looks at what unsafe code does with the process's memory: locks, threads, pages lent to
# devices, buffers that a device fills. Needs the nightly compiler; its precompiled standard library will do.
# usage: tests/sanitize.sh [ARGUMENTS OF cargo test]; without any: locks, memory and threads of the base, disks and wires of the host, sockets
# and their protocols, and the hosted column of the suite.
#
# ThreadSanitizer is not run: it must see the standard library's own code, or it reports races where `Arc` and channels have none, and
# for that the library would have to be built from its source (`-Zbuild-std`), which the plain toolchain does not bring.
set -euo pipefail
cd "$(dirname "$0")/.."

target=x86_64-unknown-linux-gnu
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/sanitize
export RUSTFLAGS='-Zsanitizer=address -Cforce-frame-pointers=yes'
# Kernels, hosts and devices live as long as the process: what is never freed is no finding here.
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=1

if [ $# -gt 0 ]; then
    exec cargo +nightly test --target "$target" "$@"
fi
cargo +nightly test --target "$target" -p rumpkern -p rumpuser_hosted -p rumpnet -p rumpnet_virtif -p rumpnet_netinet --lib --tests
cargo +nightly test --target "$target" -p rump-tests --test suite -- hosted::
