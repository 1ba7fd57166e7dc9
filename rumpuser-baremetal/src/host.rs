//! The host as a whole.

use crate::{bio, clock, console, exit, memory, net, params, random, threads};
use rumpuser::{BlockDevice, PacketDevice};

pub(crate) struct Host;

pub(crate) static HOST: Host = Host;

impl rumpuser::Host for Host {
    fn threads(&self) -> &dyn rumpuser::Threads {
        &threads::THREADS
    }

    fn clock(&self) -> &dyn rumpuser::Clock {
        &clock::CLOCK
    }

    fn memory(&self) -> &dyn rumpuser::Memory {
        &memory::MEMORY
    }

    fn random(&self) -> &dyn rumpuser::Random {
        &random::RANDOM
    }

    fn console(&self) -> &dyn rumpuser::Console {
        &console::CONSOLE
    }

    fn params(&self) -> &dyn rumpuser::Params {
        &params::PARAMS
    }

    fn exit(&self) -> &dyn rumpuser::Exit {
        &exit::EXIT
    }

    fn block_device(&self, unit: usize) -> Option<&'static dyn BlockDevice> {
        bio::device(unit)
    }

    fn packet_device(&self, unit: usize) -> Option<&'static dyn PacketDevice> {
        net::device(unit)
    }
}
