//! The way out: a machine that halts stops; a kernel's panic fails the universe.

use crate::scheduler;
use crate::trace::Kind;
use crate::world;
use rumpuser::ThreadId;

/// The machine's switch.
pub(crate) struct Switch;

impl rumpuser::Exit for Switch {
    /// The calling thread never runs again; others of its machine do, as nobody takes their processor away.
    fn exit(&self, status: u8) -> ! {
        world::with(|world| {
            let numbers = [u64::from(status), 0, 0];
            world.event(Kind::Note, numbers, format_args!("halts, status {status}"));
        });
        scheduler::stop()
    }

    /// The simulation ends machines itself.
    fn is_asked(&self) -> bool {
        false
    }

    fn listen(&self, _: ThreadId) {}

    fn panic(&self) -> ! {
        panic!("a kernel has panicked")
    }
}
