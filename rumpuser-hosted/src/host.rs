//! The host: built once, installed for the life of the process.

use crate::clock::HostClock;
use crate::console::Terminal;
use crate::exit::Process;
use crate::memory::Arena;
use crate::params::CommandLine;
use crate::random::{Kernel, Seeded};
use crate::threads::HostThreads;
use rumpuser::{BlockDevice, Errno, PacketDevice, Random};
use std::sync::Once;
use std::sync::atomic::AtomicU64;

/// The host in a Linux process.
pub struct Host {
    threads: HostThreads,
    clock: HostClock,
    memory: Arena,
    random: Box<dyn Random>,
    console: Terminal,
    params: CommandLine,
    exit: Process,
    blocks: Vec<&'static dyn BlockDevice>,
    packets: Vec<&'static dyn PacketDevice>,
}

/// What a [`Host`] is to have.
pub struct Builder {
    memory_bytes: usize,
    command_line: Vec<u8>,
    random: Box<dyn Random>,
    blocks: Vec<&'static dyn BlockDevice>,
    packets: Vec<&'static dyn PacketDevice>,
}

impl Host {
    /// Starts the description of a host: 256 MiB of address space, no devices, no parameters.
    pub fn builder() -> Builder {
        Builder {
            memory_bytes: 256 << 20,
            command_line: Vec::new(),
            random: Box::new(Kernel),
            blocks: Vec::new(),
            packets: Vec::new(),
        }
    }

    /// Makes sure that the process has a host, for tests: several share a process, and whichever
    /// comes first installs one with 64 MiB and no devices.
    pub fn install_for_tests() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // A host that a test installed itself before serves as well.
            if rumpuser::try_host().is_none() {
                Host::builder()
                    .memory(64 << 20)
                    .install()
                    .expect("the first host of the process");
            }
        });
    }
}

impl Builder {
    /// How much memory the kernel may ever use, in bytes; rounded up to pages. It is address
    /// space: what is not touched is not committed.
    pub fn memory(mut self, bytes: usize) -> Builder {
        self.memory_bytes = bytes;
        self
    }

    /// The kernel's parameters, as rumpuser's `Params` has them.
    pub fn command_line(mut self, line: impl Into<Vec<u8>>) -> Builder {
        self.command_line = line.into();
        self
    }

    /// Random numbers from a seed instead of the system's: for tests and fuzzers, whose runs must repeat. Nothing that
    /// strangers talk to may have it: they could foretell its keys.
    pub fn random_seed(mut self, seed: u64) -> Builder {
        self.random = Box::new(Seeded(AtomicU64::new(seed)));
        self
    }

    /// Adds a block device: the first is unit 0.
    pub fn block_device(mut self, device: &'static dyn BlockDevice) -> Builder {
        self.blocks.push(device);
        self
    }

    /// Adds a packet device: the first is unit 0.
    pub fn packet_device(mut self, device: &'static dyn PacketDevice) -> Builder {
        self.packets.push(device);
        self
    }

    /// Makes the host and installs it. It lives as long as the process.
    ///
    /// # Errors
    /// `ENOMEM` if the address space cannot be had; `EEXIST` if the process has a host already.
    pub fn install(self) -> Result<&'static Host, Errno> {
        let start = std::time::Instant::now();
        let host: &'static Host = Box::leak(Box::new(Host {
            threads: HostThreads::new(start),
            clock: HostClock::new(start),
            memory: Arena::new(self.memory_bytes)?,
            random: self.random,
            console: Terminal::new(),
            params: CommandLine::new(self.command_line),
            exit: Process,
            blocks: self.blocks,
            packets: self.packets,
        }));
        rumpuser::install(host).map_err(|_| Errno::EEXIST)?;
        Ok(host)
    }
}

impl rumpuser::Host for Host {
    fn threads(&self) -> &dyn rumpuser::Threads {
        &self.threads
    }

    fn clock(&self) -> &dyn rumpuser::Clock {
        &self.clock
    }

    fn memory(&self) -> &dyn rumpuser::Memory {
        &self.memory
    }

    fn random(&self) -> &dyn rumpuser::Random {
        &*self.random
    }

    fn console(&self) -> &dyn rumpuser::Console {
        &self.console
    }

    fn params(&self) -> &dyn rumpuser::Params {
        &self.params
    }

    fn exit(&self) -> &dyn rumpuser::Exit {
        &self.exit
    }

    fn block_device(&self, unit: usize) -> Option<&'static dyn BlockDevice> {
        self.blocks.get(unit).copied()
    }

    fn packet_device(&self, unit: usize) -> Option<&'static dyn PacketDevice> {
        self.packets.get(unit).copied()
    }
}
