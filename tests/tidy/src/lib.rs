//! Rules of the house that no compiler checks.
#![no_std]
