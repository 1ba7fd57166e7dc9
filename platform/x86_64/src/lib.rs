//! The x86-64 machine: entry, paging, interrupts, clock, context switch.
#![no_std]
