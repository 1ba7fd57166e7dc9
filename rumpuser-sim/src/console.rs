//! The console of the calling thread's machine: kept for a report, and noted in the trace.

use crate::threads::wake;
use crate::trace::Kind;
use crate::world;
use rumpuser::ThreadId;

/// Bytes of a console that are kept.
const KEPT: usize = 64 << 10;

/// The machine's console.
pub(crate) struct SimConsole;

impl rumpuser::Console for SimConsole {
    fn write(&self, bytes: &[u8]) {
        let noted = world::try_with(|world| {
            let text = String::from_utf8_lossy(bytes);
            let sum = bytes.iter().fold(0u64, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
            });
            let numbers = [sum, bytes.len() as u64, 0];
            world.event(Kind::Console, numbers, format_args!("{}", text.trim_end()));
            let console = &mut world.machine().console;
            if console.len() > 2 * KEPT {
                console.drain(..KEPT);
            }
            console.extend_from_slice(bytes);
        });
        if noted.is_none() {
            eprint!("{}", String::from_utf8_lossy(bytes));
        }
    }

    fn read(&self) -> Option<u8> {
        world::with(|world| world.machine().typed.pop_front())
    }

    fn listen(&self, thread: ThreadId) {
        let waiting = world::with(|world| {
            let machine = world.machine();
            machine.console_listener = Some(thread);
            !machine.typed.is_empty()
        });
        if waiting {
            wake(Some(thread));
        }
    }
}
