//! Receiving: the interface's thread.

use crate::Virtif;
use crate::tx::Outlook;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use rumpkern::time;
use rumpkern::uvm::dma::RxPiece;
use rumpkern::uvm::{Alloc, Cluster, MLEN};
use rumpnet::ifnet::{Ifnet, count};
use rumpnet::mbuf::{Mbuf, MbufFlags, Piece, Storage};
use rumpnet::net::Net;
use rumpuser::{Errno, Instant, RxChecksum, host};

/// Packets taken up the stack before others get to run.
const BATCH: usize = 64;

/// A packet up to this length is copied into a small buffer.
const COPY_BREAK: usize = MLEN;

/// While something is under way, how often to look whether it was sent: a device says so by itself
/// only after it was full.
const REAP_INTERVAL: Duration = Duration::from_millis(100);

/// While packets wait for room, how often to look: our table of packets may be full where the device,
/// which would wake us, is not.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// Runs until `stop`.
pub(crate) fn run(net: &Net, ifp: &Arc<Ifnet>, driver: &Virtif, stop: &AtomicBool) {
    driver.tx.set_thread();
    driver.queue.listen();
    let mut parts = Vec::new();
    while !stop.load(Ordering::Acquire) {
        fill(driver);
        driver.tx.begin_batch();
        let mut taken = 0;
        while taken < BATCH
            && let Some(checksum) = driver.queue.receive(&mut parts)
        {
            taken += 1;
            match take(driver, &mut parts, checksum) {
                Ok(frame) => ifp.input(net, frame),
                Err(_) => count(&ifp.counters.iqdrops),
            }
        }
        driver.tx.end_batch(&driver.queue);
        if taken > 0 {
            driver.queue.kick();
        }
        if taken == BATCH {
            host().threads().yield_now();
            continue;
        }
        driver.queue.wait(next_look(driver));
    }
}

/// When to look again, if the device says nothing.
fn next_look(driver: &Virtif) -> Option<Instant> {
    let wait = match driver.tx.outlook(&driver.queue) {
        Outlook::Waiting => RETRY_INTERVAL,
        Outlook::UnderWay => REAP_INTERVAL,
        // The ring is to be filled as soon as there is memory.
        Outlook::Idle if driver.queue.rx_room() > 0 => REAP_INTERVAL,
        Outlook::Idle => return None,
    };
    Some(time::now() + wait)
}

/// Gives the device buffers until it has as many as it takes, or memory is out.
fn fill(driver: &Virtif) {
    let mut given = false;
    while driver.queue.rx_room() > 0 {
        let Ok(cluster) = Cluster::alloc(Alloc::NoWait) else {
            break;
        };
        if driver.queue.provide(cluster).is_err() {
            break;
        }
        given = true;
    }
    if given {
        driver.queue.kick();
    }
}

/// Makes a frame of the parts of a packet, and gives the device other buffers for them. Without
/// memory, gives it the same ones back.
fn take(driver: &Virtif, parts: &mut Vec<RxPiece>, checksum: RxChecksum) -> Result<Mbuf, Errno> {
    let len: usize = parts.iter().map(|part| part.len).sum();
    let made = match len <= COPY_BREAK {
        true => copy(parts),
        false => exchange(driver, parts),
    };
    // What is still there goes back to the device, which has room: it just gave it.
    for part in parts.drain(..) {
        let given = driver.queue.provide(part.cluster);
        debug_assert!(
            !matches!(given, Err((Errno::EAGAIN | Errno::EINVAL, _))),
            "a buffer that was just taken can be given back"
        );
    }
    let mut frame = made?;
    if checksum == RxChecksum::Good {
        frame.pkthdr.flags |= MbufFlags::M_CSUM_OK;
    }
    Ok(frame)
}

fn copy(parts: &[RxPiece]) -> Result<Mbuf, Errno> {
    let mut frame = Mbuf::new();
    for part in parts {
        frame.append_slice(&part.cluster.as_bytes()[part.offset..part.offset + part.len])?;
    }
    Ok(frame)
}

/// Takes the parts themselves, against as many new buffers.
fn exchange(driver: &Virtif, parts: &mut Vec<RxPiece>) -> Result<Mbuf, Errno> {
    let mut frame = Mbuf::new();
    while let Some(part) = parts.first() {
        let new = Cluster::alloc(Alloc::NoWait).map_err(|_| Errno::ENOBUFS)?;
        let (offset, len) = (part.offset, part.len);
        let part = parts.remove(0);
        frame.push(Piece::new(Storage::Cluster(part.cluster), offset, len)?)?;
        if driver.queue.provide(new).is_err() {
            // The device is broken; the packet is none the worse for it.
            log::debug!("virtif: the device takes no buffer");
        }
    }
    Ok(frame)
}
