//! The API that programs are written against: boot a kernel, open files, accept connections.
#![no_std]
#![forbid(unsafe_code)]
