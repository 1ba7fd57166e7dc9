//! The host: one for the process, whatever the universe.

use crate::clock::SimClock;
use crate::console::SimConsole;
use crate::exit::Switch;
use crate::memory::Arena;
use crate::params::CommandLine;
use crate::random::Entropy;
use crate::threads::SimThreads;
use crate::world;
use rumpuser::{BlockDevice, PacketDevice};

/// The host in a simulator.
struct Host {
    memory: Arena,
}

/// Installs the host with `bytes` of memory.
///
/// # Panics
/// If the process has a host already: a universe is a process.
pub(crate) fn install(bytes: usize) {
    let host: &'static Host = Box::leak(Box::new(Host {
        memory: Arena::new(bytes),
    }));
    let installed = rumpuser::install(host).is_ok();
    assert!(
        installed,
        "a universe needs a process of its own, without another host"
    );
}

impl rumpuser::Host for Host {
    fn threads(&self) -> &dyn rumpuser::Threads {
        &SimThreads
    }

    fn clock(&self) -> &dyn rumpuser::Clock {
        &SimClock
    }

    fn memory(&self) -> &dyn rumpuser::Memory {
        &self.memory
    }

    fn random(&self) -> &dyn rumpuser::Random {
        &Entropy
    }

    fn console(&self) -> &dyn rumpuser::Console {
        &SimConsole
    }

    fn params(&self) -> &dyn rumpuser::Params {
        &CommandLine
    }

    fn exit(&self) -> &dyn rumpuser::Exit {
        &Switch
    }

    fn block_device(&self, unit: usize) -> Option<&'static dyn BlockDevice> {
        world::with(|world| world.machine().disks.get(unit).copied())
    }

    fn packet_device(&self, unit: usize) -> Option<&'static dyn PacketDevice> {
        world::with(|world| world.machine().ports.get(unit).copied())
    }
}
