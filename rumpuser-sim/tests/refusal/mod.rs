//! Memory that is refused: one of the next allocations, again and again. And memory that is slow to come, since somebody else has it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use rump::thread::JoinHandle;
use rumpkern::uvm::{self, Alloc, Frame};
use rumpuser_sim::{Stream, Universe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// It is over; a universe is a process.
static OVER: AtomicBool = AtomicBool::new(false);
/// The thread that takes pages.
static HOG: Mutex<Option<JoinHandle>> = Mutex::new(None);

/// Refuses allocations from now on.
pub fn begin(universe: Universe, mut stream: Stream) {
    if OVER.load(Ordering::Relaxed) {
        return;
    }
    let allocations = stream.between(1, 40);
    universe.fault(&format!("allocation {allocations} from now is refused"));
    uvm::fail_after(allocations);
    let pause = Duration::from_micros(stream.between(100, 20_000));
    universe.after(pause, move || begin(universe, stream));
}

/// Refuses the allocation that is `allocations` from now, and no more.
pub fn once(universe: &Universe, allocations: u64) {
    universe.fault(&format!("allocation {allocations} from now is refused"));
    uvm::fail_after(allocations);
}

/// From now on a thread takes all pages that it can get, keeps them for a while, and gives them back: others wait for that long.
pub fn begin_to_hog(mut stream: Stream) {
    let hog = move || {
        let mut pages = Vec::new();
        while !OVER.load(Ordering::Relaxed) {
            let most = stream.between(1, 300);
            pages.extend((0..most).map_while(|_| Frame::alloc(Alloc::NoWait).ok()));
            pause(&mut stream);
            pages.clear();
            pause(&mut stream);
        }
    };
    let hog = rump::thread::spawn("hog", hog).expect("a thread");
    *HOG.lock().expect("nobody panicked") = Some(hog);
}

fn pause(stream: &mut Stream) {
    let micros = match stream.below(4) {
        0 => stream.between(1, 200),
        1 | 2 => stream.between(200, 20_000),
        _ => stream.between(20_000, 500_000),
    };
    rump::thread::sleep(Duration::from_micros(micros));
}

/// Neither refuses nor takes any more. Answers whether all that was to be refused was.
pub fn end() -> bool {
    OVER.store(true, Ordering::Relaxed);
    let left = uvm::fail_after(0);
    let hog = HOG.lock().expect("nobody panicked").take();
    if let Some(hog) = hog {
        hog.join();
    }
    left == 0
}
