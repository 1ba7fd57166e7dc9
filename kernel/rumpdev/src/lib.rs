//! Device faction: autoconfiguration, disks and their partitions.
#![no_std]
#![forbid(unsafe_code)]
