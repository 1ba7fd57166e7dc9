//! Base faction: lwps, locks, memory and the pagedaemon, callouts, components, descriptors.
#![no_std]
