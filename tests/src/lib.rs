//! Integration tests: boot images in QEMU and talk to them from outside.
#![no_std]
