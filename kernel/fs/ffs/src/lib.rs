//! The Berkeley fast file system, UFS1 and UFS2.
#![no_std]
#![forbid(unsafe_code)]
