//! Randomness from a virtio entropy device, for processors that have no source of their own.
//!
//! Lock: one, a leaf. Its interrupt handler takes none.

use crate::heap;
use crate::virtio::{DMA, Failure, Found, Listener, Transport};
use core::time::Duration;
use platform_virtio::rng::VirtioRng;
use rumpuser::{Errno, host};
use spin::{Mutex, Once};

/// A source that delivers nothing for so long is none.
const PATIENCE: Duration = Duration::from_secs(2);

static SOURCE: Once<&'static Source> = Once::new();

struct Source {
    driver: Mutex<VirtioRng<Transport>>,
    listener: Listener,
}

/// Brings up a device that was found. One is enough: others are left alone.
pub(crate) fn attach(found: &Found) -> Result<(), Failure> {
    if SOURCE.get().is_some() {
        return Ok(());
    }
    found.wire(&[interrupt], 0)?;
    let source = Source {
        driver: Mutex::new(VirtioRng::attach(found.transport()?, DMA, 0)?),
        listener: Listener::new(),
    };
    let source = heap::place(source).map_err(|_| Failure::Exhausted("memory"))?;
    SOURCE.call_once(|| source);
    Ok(())
}

fn interrupt(_: usize) {
    if let Some(source) = SOURCE.get() {
        source.listener.wake();
    }
}

/// Fills `buffer`. Parks the calling thread until the device delivers. Several threads may ask at once: each looks
/// again after a while even if the wake-up went to another.
///
/// # Errors
/// `ENXIO`: there is no device, it is broken, or delivers nothing.
pub(crate) fn fill(buffer: &mut [u8]) -> Result<(), Errno> {
    const AGAIN: Duration = Duration::from_millis(10);
    let source = SOURCE.get().ok_or(Errno::ENXIO)?;
    let (threads, clock) = (host().threads(), host().clock());
    let deadline = clock.now() + PATIENCE;
    let mut filled = 0;
    source.listener.set(threads.current());
    while filled < buffer.len() {
        let now = source.driver.lock().fill(&mut buffer[filled..]);
        filled += now.map_err(|_| Errno::ENXIO)?;
        if filled == buffer.len() {
            break;
        }
        if clock.now() >= deadline {
            return Err(Errno::ENXIO);
        }
        threads.park(Some(clock.now() + AGAIN));
    }
    Ok(())
}
