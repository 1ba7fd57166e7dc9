//! What a person can ask: on the console by a word and the return key, and by the power button.

use crate::server::Server;
use alloc::sync::Arc;
use alloc::vec::Vec;
use rump::sync::OnceLock;
use rump::{Errno, Kernel, thread};
use rumpkern::{aprint, uvm};
use rumpuser::host;

/// The longest line that is kept.
const LINE_MAX: usize = 80;

/// Who does what is asked.
struct Operator {
    kernel: Arc<Kernel>,
    server: Arc<OnceLock<Arc<Server>>>,
}

/// Starts the thread that listens. `server` gets its value when there is one to be stopped.
///
/// # Errors
/// `EAGAIN` if the host has no thread left.
pub fn start(kernel: &Arc<Kernel>, server: &Arc<OnceLock<Arc<Server>>>) -> Result<(), Errno> {
    let operator = Operator {
        kernel: kernel.clone(),
        server: server.clone(),
    };
    thread::spawn("console", move || operator.listen())?;
    Ok(())
}

impl Operator {
    fn listen(&self) {
        let threads = host().threads();
        host().console().listen(threads.current());
        host().exit().listen(threads.current());
        let mut line = Vec::with_capacity(LINE_MAX);
        loop {
            if host().exit().is_asked() {
                aprint!("power button: halting");
                self.halt();
            }
            let Some(byte) = host().console().read() else {
                threads.park(None);
                continue;
            };
            match byte {
                b'\r' | b'\n' => {
                    self.answer(&line);
                    line.clear();
                }
                // Backspace and delete.
                8 | 127 => {
                    line.pop();
                }
                _ if line.len() < LINE_MAX => line.push(byte),
                _ => {}
            }
        }
    }

    fn answer(&self, line: &[u8]) {
        match line.trim_ascii() {
            b"" => {}
            b"vmstat" => vmstat(),
            b"counters" => {
                let counters = self.kernel.counters();
                counters.for_each(|name, _, value| aprint!("{name} {value}"));
            }
            b"halt" => self.halt(),
            b"help" => {
                aprint!("vmstat: memory; counters: everything that is counted; halt: power off")
            }
            other => aprint!("{}: unknown; try help", other.escape_ascii()),
        }
    }

    /// Ends everything in order: clients, then the kernel with its mounts, then the host.
    fn halt(&self) -> ! {
        if let Some(server) = self.server.get() {
            server.stop();
        }
        self.kernel.halt(0)
    }
}

/// Memory, in pages of 4 KiB, in the manner of vmstat(1).
fn vmstat() {
    let s = uvm::stats();
    aprint!(
        "vmstat: limit {} used {} free {} high {} kmem {} active {} inactive {}",
        s.limit,
        s.used,
        s.free,
        s.high_water,
        s.kmem_pages,
        s.active,
        s.inactive
    );
    aprint!(
        "vmstat: pdwoke {} scanned {} freed {} drained {} pageouts {}/{} outstanding {} waits {} refused {} hopeless {}",
        s.pdwoke,
        s.scanned,
        s.freed,
        s.drained,
        s.pageouts_done,
        s.pageouts_started,
        s.outstanding,
        s.waits,
        s.refused,
        s.hopeless
    );
}
