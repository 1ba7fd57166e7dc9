//! Memory that is refused: one of the next pages, again and again.

use rumpkern::uvm;
use rumpuser_sim::{Stream, Universe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// It is over; a universe is a process.
static OVER: AtomicBool = AtomicBool::new(false);

/// Refuses pages from now on.
pub fn begin(universe: Universe, mut stream: Stream) {
    if OVER.load(Ordering::Relaxed) {
        return;
    }
    let allocations = stream.between(1, 20);
    universe.fault(&format!("page {allocations} from now is refused"));
    uvm::fail_after(allocations);
    let pause = Duration::from_micros(stream.between(100, 20_000));
    universe.after(pause, move || begin(universe, stream));
}

/// Refuses no more.
pub fn end() {
    OVER.store(true, Ordering::Relaxed);
    uvm::fail_after(0);
}
