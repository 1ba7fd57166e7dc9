//! What a person can ask on the console: a word and the return key.

use alloc::sync::Arc;
use alloc::vec::Vec;
use rump::{Errno, Kernel, thread};
use rumpkern::{aprint, uvm};
use rumpuser::host;

/// The longest line that is kept.
const LINE_MAX: usize = 80;

/// Starts the thread that reads the console.
///
/// # Errors
/// `EAGAIN` if the host has no thread left.
pub fn start(kernel: &Arc<Kernel>) -> Result<(), Errno> {
    let kernel = kernel.clone();
    thread::spawn("console", move || read(&kernel))?;
    Ok(())
}

fn read(kernel: &Arc<Kernel>) {
    let threads = host().threads();
    host().console().listen(threads.current());
    let mut line = Vec::with_capacity(LINE_MAX);
    loop {
        let Some(byte) = host().console().read() else {
            threads.park(None);
            continue;
        };
        match byte {
            b'\r' | b'\n' => {
                answer(kernel, &line);
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

fn answer(kernel: &Arc<Kernel>, line: &[u8]) {
    match line.trim_ascii() {
        b"" => {}
        b"vmstat" => vmstat(),
        b"counters" => kernel
            .counters()
            .for_each(|name, _, value| aprint!("{name} {value}")),
        b"halt" => kernel.halt(0),
        b"help" => aprint!("vmstat: memory; counters: everything that is counted; halt: power off"),
        other => aprint!("{}: unknown; try help", other.escape_ascii()),
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
