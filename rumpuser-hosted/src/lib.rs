//! The hypercalls in a Linux process.
#![no_std]
