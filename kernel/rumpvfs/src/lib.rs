//! File-system faction: vnodes, name lookup, mounts, page cache, buffer cache.
#![no_std]
#![forbid(unsafe_code)]
