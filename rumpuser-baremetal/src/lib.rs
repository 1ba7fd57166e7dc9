//! The hypercalls on bare metal.
#![no_std]
