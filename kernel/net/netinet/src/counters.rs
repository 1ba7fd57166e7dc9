//! What netstat(1) shows, among the kernel's counters.

use crate::inet::Inet;
use crate::tcp::Tcp;
use crate::udp::Udp;
use alloc::format;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU64, Ordering};
use rumpkern::Kernel;
use rumpkern::uvm::{Cluster, SmallBuffer};
use rumpnet::ifnet::Ifnet;
use rumpuser::Errno;

/// Name, help text, and where to find it.
type Row<T> = (&'static str, &'static str, fn(&T) -> &AtomicU64);

/// Registers counters that live in `of`, for as long as that lives, each name with `prefix` in front.
fn register<T: Send + Sync + 'static>(
    kernel: &Kernel,
    prefix: &str,
    of: &Arc<T>,
    rows: &[Row<T>],
) -> Result<(), Errno> {
    for &(name, help, counter) in rows {
        let of: Weak<T> = Arc::downgrade(of);
        let name = format!("{prefix}{name}");
        kernel.counters().register(&name, help, move || {
            of.upgrade()
                .map_or(0, |of| counter(&of).load(Ordering::Relaxed))
        })?;
    }
    Ok(())
}

/// The counters of the protocols, and of the buffers they use.
///
/// # Errors
/// `EEXIST`, `ENOMEM`: the registry's.
pub(crate) fn register_protocols(
    kernel: &Kernel,
    inet: &Arc<Inet>,
    udp: &Arc<Udp>,
    tcp: &Arc<Tcp>,
) -> Result<(), Errno> {
    let counters = kernel.counters();
    counters.register("mbuf_clusters", "packet buffers of 2 KiB in use", || {
        Cluster::in_use() as u64
    })?;
    counters.register("mbuf_small", "packet buffers of 256 bytes in use", || {
        SmallBuffer::in_use() as u64
    })?;
    let budget = inet.net().budget().clone();
    counters.register(
        "sockbuf_bytes",
        "storage held by socket buffers",
        move || budget.held() as u64,
    )?;
    let budget = inet.net().budget().clone();
    counters.register("sockets", "sockets open", move || budget.sockets() as u64)?;
    let of_inet: [Row<Inet>; 9] = [
        ("ip_forwarded_total", "packets handed on", |i| {
            &i.ipstat.forward
        }),
        ("ip_received_total", "packets received", |i| &i.ipstat.total),
        ("ip_bad_total", "packets with a bad header", |i| {
            &i.ipstat.bad
        }),
        ("ip_sent_total", "packets sent", |i| &i.ipstat.localout),
        ("ip_no_route_total", "packets without a route", |i| {
            &i.ipstat.noroute
        }),
        ("ip_fragments_total", "fragments received", |i| {
            &i.ipstat.fragments
        }),
        ("ip_reassembled_total", "packets put together", |i| {
            &i.ipstat.reassembled
        }),
        ("arp_requests_total", "ARP requests sent", |i| {
            &i.arp.requests
        }),
        ("icmp_limited_total", "answers not sent: too many", |i| {
            &i.icmp.limited
        }),
    ];
    register(kernel, "", inet, &of_inet)?;
    let of_udp: [Row<Udp>; 3] = [
        ("udp_received_total", "datagrams received", |u| {
            &u.stats.ipackets
        }),
        ("udp_sent_total", "datagrams sent", |u| &u.stats.opackets),
        (
            "udp_full_total",
            "datagrams dropped, a buffer was full",
            |u| &u.stats.full,
        ),
    ];
    register(kernel, "", udp, &of_udp)?;
    let of_tcp: [Row<Tcp>; 8] = [
        ("tcp_received_total", "segments received", |t| {
            &t.stats.received
        }),
        ("tcp_malformed_total", "segments that are none", |t| {
            &t.stats.malformed
        }),
        ("tcp_bad_sum_total", "segments with a wrong checksum", |t| {
            &t.stats.bad_sum
        }),
        ("tcp_sent_total", "segments sent", |t| &t.stats.sent),
        (
            "tcp_send_failed_total",
            "segments not sent for want of memory or room",
            |t| &t.stats.send_failed,
        ),
        ("tcp_established_total", "connections that stood up", |t| {
            &t.stats.established
        }),
        (
            "tcp_listen_overflow_total",
            "connections refused, the queue was full",
            |t| &t.stats.listen_overflow,
        ),
        (
            "tcp_drained_total",
            "times that segments out of order were dropped for want of memory",
            |t| &t.stats.drained,
        ),
    ];
    register(kernel, "", tcp, &of_tcp)
}

/// The counters of an interface.
///
/// # Errors
/// `EEXIST`, `ENOMEM`: the registry's.
pub(crate) fn register_interface(kernel: &Kernel, ifp: &Arc<Ifnet>) -> Result<(), Errno> {
    let all: [Row<Ifnet>; 8] = [
        ("received_total", "frames received", |i| {
            &i.counters.ipackets
        }),
        ("received_bytes_total", "bytes received", |i| {
            &i.counters.ibytes
        }),
        ("receive_errors_total", "malformed frames received", |i| {
            &i.counters.ierrors
        }),
        (
            "receive_drops_total",
            "frames dropped for want of memory",
            |i| &i.counters.iqdrops,
        ),
        ("sent_total", "frames sent", |i| &i.counters.opackets),
        ("sent_bytes_total", "bytes sent", |i| &i.counters.obytes),
        ("send_errors_total", "frames that could not be sent", |i| {
            &i.counters.oerrors
        }),
        (
            "send_drops_total",
            "frames dropped, the queue was full",
            |i| &i.counters.oqdrops,
        ),
    ];
    register(kernel, &format!("if_{}_", ifp.name()), ifp, &all)
}
