//! Finding the functions: every bus that a bridge leads to, from bus 0.

use super::config::{self, Address};
use super::function::Function;
use crate::acpi::Facts;
use spin::Once;

/// The most functions that are kept.
pub const MAX_FUNCTIONS: usize = 128;

struct Found {
    addresses: [Address; MAX_FUNCTIONS],
    len: usize,
    /// Buses that were visited, one bit each: a bridge that leads back must not be followed.
    visited: [u64; 4],
}

static FOUND: Once<Found> = Once::new();

/// Finds the functions. Once, after paging.
pub fn init(facts: &Facts) {
    if let Some(ecam) = facts.ecam {
        config::use_memory(ecam);
    }
    FOUND.call_once(|| {
        let nowhere = Address {
            bus: 0,
            device: 0,
            function: 0,
        };
        let mut found = Found {
            addresses: [nowhere; MAX_FUNCTIONS],
            len: 0,
            visited: [0; 4],
        };
        found.scan_from(0);
        found
    });
}

/// The functions that were found, in the order of their addresses on the buses as they are reached.
pub fn functions() -> impl Iterator<Item = Function> {
    FOUND
        .get()
        .into_iter()
        .flat_map(|found| &found.addresses[..found.len])
        .map(|&address| Function::new(address))
}

impl Found {
    /// Scans `bus`, and then the buses behind the bridges found on the way: those have their turn when the list comes to them.
    fn scan_from(&mut self, bus: u8) {
        self.scan(bus);
        let mut next = 0;
        while next < self.len {
            let bridge = Function::new(self.addresses[next]);
            if let Some(behind) = bridge.secondary_bus() {
                self.scan(behind);
            }
            next += 1;
        }
    }

    fn scan(&mut self, bus: u8) {
        let (word, bit) = (usize::from(bus / 64), 1 << (bus % 64));
        if self.visited[word] & bit != 0 {
            return;
        }
        self.visited[word] |= bit;
        for device in 0..32 {
            let first = Function::new(Address {
                bus,
                device,
                function: 0,
            });
            if !first.is_present() {
                continue;
            }
            let count = if first.is_multifunction() { 8 } else { 1 };
            for function in 0..count {
                let address = Address {
                    bus,
                    device,
                    function,
                };
                if self.len < MAX_FUNCTIONS && Function::new(address).is_present() {
                    self.addresses[self.len] = address;
                    self.len += 1;
                }
            }
        }
    }
}
