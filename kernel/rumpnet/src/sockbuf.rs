//! Socket buffers: what was received and not yet read, what is to be sent and not yet acknowledged.
//!
//! A buffer counts the bytes in it (`sb_cc`) and the bytes of storage they hold on to (`sb_mbcnt`);
//! both are limited by its high-water mark, and the storage of all buffers of a kernel by one
//! [`SbBudget`]. Below [`SB_MIN`] a buffer may always grow, so that every connection can go on when
//! the budget is spent; above it, what is left of the budget limits it.
//!
//! Small pieces in large storage are copied together as they are appended (NetBSD's sbcompress).
//!
//! Source of the shapes: NetBSD `sys/socketvar.h`, struct sockbuf.

use crate::mbuf::{MCLBYTES, Mbuf};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use rumpkern::kmem::Room;
use rumpkern::uvm;
use rumpuser::{Errno, PAGE_SIZE};

/// Bytes that a buffer may take whatever the others hold: two Ethernet segments and a bit.
pub const SB_MIN: usize = 4096;

/// The high-water mark of a new buffer, memory allowing.
const SB_DEFAULT: usize = 32 << 10;

/// The most that a high-water mark may be, memory allowing.
const SB_MAX: usize = 512 << 10;

/// Messages a datagram buffer may hold, however short they are.
const MAX_RECORDS: usize = 512;

/// Bytes that a socket with its control block, timer and file take, rounded up; their buffers not counted.
const SOCKET_COST: usize = 4096;

/// Sockets that a kernel may have however little memory there is.
const MIN_SOCKETS: usize = 16;

/// What the sockets of one kernel may hold in all: their buffers a quarter of the memory, and they
/// themselves a third.
pub struct SbBudget {
    held: AtomicUsize,
    max: usize,
    sockets: AtomicUsize,
    max_sockets: usize,
}

impl SbBudget {
    /// The budget in a kernel of `memory` bytes.
    pub const fn new(memory: usize) -> SbBudget {
        let sockets = memory / 3 / SOCKET_COST;
        SbBudget {
            held: AtomicUsize::new(0),
            max: memory / 4,
            sockets: AtomicUsize::new(0),
            max_sockets: if sockets < MIN_SOCKETS {
                MIN_SOCKETS
            } else {
                sockets
            },
        }
    }

    /// The budget in this kernel's memory.
    pub fn of_memory() -> SbBudget {
        SbBudget::new(uvm::limit_pages().saturating_mul(PAGE_SIZE))
    }

    /// Sockets there are now.
    pub fn sockets(&self) -> usize {
        self.sockets.load(Ordering::Relaxed)
    }

    /// Whether there may be another socket.
    pub fn has_socket_room(&self) -> bool {
        self.sockets() < self.max_sockets
    }

    /// Counts a new socket.
    ///
    /// # Errors
    /// `ENOBUFS` if there are as many as the memory allows.
    pub(crate) fn add_socket(&self) -> Result<(), Errno> {
        if self.sockets.fetch_add(1, Ordering::Relaxed) >= self.max_sockets {
            self.remove_socket();
            return Err(Errno::ENOBUFS);
        }
        Ok(())
    }

    /// A socket is gone.
    pub(crate) fn remove_socket(&self) {
        self.sockets.fetch_sub(1, Ordering::Relaxed);
    }

    /// Bytes of storage that buffers hold now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes they may hold in all.
    pub fn max(&self) -> usize {
        self.max
    }

    /// What is left.
    pub fn left(&self) -> usize {
        self.max.saturating_sub(self.held())
    }

    /// The most that one buffer's high-water mark may be: a quarter, so that one reader who does not
    /// read cannot have it all.
    pub fn sb_max(&self) -> usize {
        (self.max / 4).clamp(SB_MIN, SB_MAX)
    }
}

/// A received message.
struct Record {
    from: Option<SocketAddr>,
    data: Mbuf,
}

/// A socket buffer.
pub struct Sockbuf {
    stream: Mbuf,
    records: VecDeque<Record>,
    cc: usize,
    held: usize,
    hiwat: usize,
    lowat: usize,
    autosize: bool,
    budget: Arc<SbBudget>,
    /// How long a blocking call waits (`SO_RCVTIMEO`, `SO_SNDTIMEO`).
    pub timeout: Option<Duration>,
}

impl Sockbuf {
    /// An empty buffer that wakes its owner at `lowat` bytes.
    pub fn new(budget: Arc<SbBudget>, lowat: usize) -> Sockbuf {
        Sockbuf {
            stream: Mbuf::new(),
            records: VecDeque::new(),
            cc: 0,
            held: 0,
            hiwat: SB_DEFAULT.min(budget.sb_max()),
            lowat,
            autosize: true,
            budget,
            timeout: None,
        }
    }

    /// Bytes in it (`sb_cc`).
    pub fn len(&self) -> usize {
        self.cc
    }

    /// Whether it is empty. A message without data does not make it so.
    pub fn is_empty(&self) -> bool {
        self.cc == 0 && self.records.is_empty()
    }

    /// Whether there is enough to wake a reader: a message, or the low-water mark's worth of a stream; or
    /// no room for more of it.
    pub fn has_data(&self) -> bool {
        let enough = self.cc >= self.lowat || self.space() == 0;
        !self.records.is_empty() || (self.cc > 0 && enough)
    }

    /// The high-water mark.
    pub fn hiwat(&self) -> usize {
        self.hiwat
    }

    /// The high-water mark, if the user set it.
    pub fn user_hiwat(&self) -> Option<usize> {
        (!self.autosize).then_some(self.hiwat)
    }

    /// The low-water mark.
    pub fn lowat(&self) -> usize {
        self.lowat
    }

    /// Sets the low-water mark, at least 1 and at most the high one.
    pub fn set_lowat(&mut self, lowat: usize) {
        self.lowat = lowat.clamp(1, self.hiwat);
    }

    /// Reserves a high-water mark at the user's wish (sbreserve), cut to what one buffer may have;
    /// it no longer grows by itself.
    pub fn set_hiwat(&mut self, hiwat: usize) {
        self.hiwat = hiwat.clamp(SB_MIN / 2, self.budget.sb_max());
        self.lowat = self.lowat.min(self.hiwat);
        self.autosize = false;
    }

    /// A protocol asks for room for `want` bytes: the high-water mark grows to that, if the user did
    /// not set it, memory is not short and the budget has that much left. Answers whether it grew.
    pub fn grow(&mut self, want: usize) -> bool {
        let want = want.min(self.budget.sb_max());
        let fits = want > self.hiwat && want - self.hiwat <= self.budget.left();
        if !self.autosize || !fits || uvm::short() {
            return false;
        }
        self.hiwat = want;
        true
    }

    /// The largest the high-water mark may become: what a receiver scales its window for.
    pub fn max(&self) -> usize {
        match self.autosize {
            true => self.budget.sb_max(),
            false => self.hiwat,
        }
    }

    /// Whether there is room enough to wake a writer: woken for less than a quarter, it would send in
    /// crumbs. An empty buffer always has room: where the budget is spent that may be less than a quarter, and
    /// no acknowledgment will come to wake the writer for more.
    pub fn has_room(&self) -> bool {
        let space = self.space();
        space >= self.lowat().max(self.hiwat() / 4) || (self.cc == 0 && space > 0)
    }

    /// Bytes that may be appended now (sbspace).
    pub fn space(&self) -> usize {
        let slack = 2 * self.hiwat + 2 * MCLBYTES;
        let wanted = self
            .hiwat
            .saturating_sub(self.cc)
            .min(slack.saturating_sub(self.held));
        let granted = self.budget.left().max(SB_MIN.saturating_sub(self.cc));
        wanted.min(granted)
    }

    fn charge(&mut self, held: usize) {
        self.held += held;
        self.budget.held.fetch_add(held, Ordering::Relaxed);
    }

    fn discharge(&mut self, held: usize) {
        debug_assert!(held <= self.held);
        self.held -= held;
        self.budget.held.fetch_sub(held, Ordering::Relaxed);
    }

    /// Sets the charge to what the stream holds now.
    fn recount(&mut self) {
        let now = self.stream.held_bytes();
        match now.checked_sub(self.held) {
            Some(more) => self.charge(more),
            None => self.discharge(self.held - now),
        }
    }

    /// Streams: appends a copy of `bytes`. The caller has looked at [`Sockbuf::space`].
    ///
    /// # Errors
    /// `ENOBUFS`, and nothing was appended.
    pub fn append_slice(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let pieces = self.stream.piece_count();
        self.stream.append_slice(bytes)?;
        self.cc += bytes.len();
        self.charge(self.stream.held_bytes_from(pieces));
        Ok(())
    }

    /// Streams: appends a chain (sbappendstream): large pieces by reference, small ones by copying
    /// them together. The caller has looked at [`Sockbuf::space`].
    ///
    /// # Errors
    /// `ENOBUFS`, and nothing was appended.
    pub fn append(&mut self, data: Mbuf) -> Result<(), Errno> {
        let (bytes, pieces) = (self.stream.len(), self.stream.piece_count());
        let len = data.len();
        for piece in data.into_pieces() {
            let done = match 2 * piece.len() < piece.storage().held_bytes() {
                true => self.stream.append_slice(piece.bytes()),
                false => self.stream.push(piece),
            };
            if let Err(error) = done {
                self.stream.truncate(bytes);
                self.recount();
                return Err(error);
            }
        }
        self.cc += len;
        self.charge(self.stream.held_bytes_from(pieces));
        Ok(())
    }

    /// Datagrams: appends a message (sbappendaddr).
    ///
    /// # Errors
    /// `ENOBUFS` if there is no room for it.
    pub fn append_record(&mut self, from: Option<SocketAddr>, mut data: Mbuf) -> Result<(), Errno> {
        if 2 * data.len() < data.held_bytes() {
            data = data.deep_copy()?;
        }
        let full = self.records.len() >= MAX_RECORDS || data.len() > self.space();
        if full || self.records.room(1).is_err() {
            return Err(Errno::ENOBUFS);
        }
        self.cc += data.len();
        self.charge(data.held_bytes());
        self.records.push_back(Record { from, data });
        Ok(())
    }

    /// Datagrams: takes the next message.
    pub fn take_record(&mut self) -> Option<(Option<SocketAddr>, Mbuf)> {
        let record = self.records.pop_front()?;
        self.cc -= record.data.len();
        self.discharge(record.data.held_bytes());
        Some((record.from, record.data))
    }

    /// Datagrams: the next message, left where it is.
    pub fn peek_record(&self) -> Option<(Option<SocketAddr>, &Mbuf)> {
        self.records.front().map(|r| (r.from, &r.data))
    }

    /// Streams: the bytes in it.
    pub fn stream(&self) -> &Mbuf {
        &self.stream
    }

    /// Streams: a view of `len` bytes from `offset` on, sharing storage: what a segment is made of.
    ///
    /// # Errors
    /// `EINVAL` if they are not there; `ENOBUFS`.
    pub fn copy_range(&self, offset: usize, len: usize) -> Result<Mbuf, Errno> {
        self.stream.copy_range(offset, len)
    }

    /// Streams: drops the first `n` bytes (sbdrop): they were read, or acknowledged.
    pub fn drop_front(&mut self, n: usize) {
        let n = n.min(self.stream.len());
        let held = self.stream.trim_front(n);
        self.cc -= n;
        self.discharge(held);
    }

    /// Streams: takes the first `n` bytes out, by reference.
    ///
    /// # Errors
    /// `EINVAL` if there are fewer; `ENOBUFS`.
    pub fn take(&mut self, n: usize) -> Result<Mbuf, Errno> {
        let out = self.stream.split_to(n)?;
        self.cc -= n;
        self.recount();
        Ok(out)
    }

    /// Drops everything (sbflush).
    pub fn flush(&mut self) {
        self.stream = Mbuf::new();
        self.records.clear();
        self.cc = 0;
        self.discharge(self.held);
    }
}

impl Drop for Sockbuf {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumpuser_hosted::Host;
    use std::vec::Vec;

    fn buffer(budget: &Arc<SbBudget>) -> Sockbuf {
        Host::install_for_tests();
        Sockbuf::new(budget.clone(), 2048)
    }

    #[test]
    fn what_goes_in_comes_out_and_the_budget_gets_it_back() {
        let budget = Arc::new(SbBudget::new(4 << 20));
        let mut sb = buffer(&budget);
        sb.append_slice(b"one ").unwrap();
        sb.append(Mbuf::from_slice(b"two ").unwrap()).unwrap();
        sb.append(Mbuf::from_slice(&[b'3'; 5000]).unwrap()).unwrap();
        assert_eq!(sb.len(), 5008);
        assert_eq!(budget.held(), sb.stream().held_bytes());
        let mut start = [0; 9];
        sb.copy_range(0, 9)
            .unwrap()
            .copy_out(0, &mut start)
            .unwrap();
        assert_eq!(&start, b"one two 3");
        sb.drop_front(9);
        let rest = sb.take(4999).unwrap();
        assert_eq!((sb.len(), rest.len(), budget.held()), (0, 4999, 0));
    }

    #[test]
    fn small_pieces_of_large_storage_are_copied_together() {
        let budget = Arc::new(SbBudget::new(4 << 20));
        let mut sb = buffer(&budget);
        let cluster = rumpkern::uvm::Cluster::alloc(rumpkern::uvm::Alloc::NoWait).unwrap();
        for n in 0..1000 {
            sb.append(Mbuf::from_cluster(cluster.clone(), n, 1).unwrap())
                .unwrap();
        }
        assert_eq!(sb.len(), 1000);
        assert!(
            budget.held() < 2 * 1000 + MCLBYTES,
            "{} bytes held",
            budget.held()
        );
        assert!(cluster.is_unique());
    }

    #[test]
    fn room_ends_at_the_high_water_mark_and_at_the_budget_but_each_buffer_has_some() {
        let budget = Arc::new(SbBudget::new(256 << 10));
        let mut greedy: Vec<Sockbuf> = (0..8).map(|_| buffer(&budget)).collect();
        for sb in &mut greedy {
            while sb.space() > 0 {
                let n = sb.space().min(1000);
                sb.append_slice(&[0; 1000][..n]).unwrap();
            }
            assert!(sb.len() >= SB_MIN && sb.len() <= sb.hiwat());
        }
        let most = budget.max() + greedy.len() * (SB_MIN + MCLBYTES);
        assert!(budget.held() <= most, "{} of {most}", budget.held());
        let late = buffer(&budget);
        assert_eq!(late.space(), SB_MIN);
        assert!(late.has_room(), "or its writer would never be woken");
        drop(greedy);
        assert_eq!((budget.held(), late.space()), (0, late.hiwat()));
    }

    #[test]
    fn there_are_as_many_sockets_as_the_memory_allows_and_never_fewer_than_a_few() {
        for (memory, most) in [(0, MIN_SOCKETS), (512 << 10, 42), (6 << 20, 512)] {
            let budget = SbBudget::new(memory);
            let made = (0..1000)
                .take_while(|_| budget.add_socket().is_ok())
                .count();
            assert_eq!((made, budget.has_socket_room()), (most, false));
            budget.remove_socket();
            assert!(budget.has_socket_room());
        }
    }

    #[test]
    fn a_buffer_grows_at_need_unless_the_user_set_it() {
        let budget = Arc::new(SbBudget::new(64 << 20));
        let mut sb = buffer(&budget);
        assert!(sb.grow(100_000) && sb.hiwat() == 100_000);
        assert!(!sb.grow(50_000));
        assert!(sb.grow(usize::MAX) && sb.hiwat() == budget.sb_max());
        let mut set = buffer(&budget);
        set.set_hiwat(10_000);
        assert!(!set.grow(100_000) && set.max() == 10_000);
        set.set_hiwat(usize::MAX);
        assert_eq!(set.hiwat(), budget.sb_max());
    }

    #[test]
    fn messages_are_bounded_in_bytes_and_in_number() {
        let budget = Arc::new(SbBudget::new(4 << 20));
        let mut sb = buffer(&budget);
        let mut taken = 0;
        while sb.append_record(None, Mbuf::new()).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, MAX_RECORDS);
        assert_eq!((sb.is_empty(), sb.len()), (false, 0));
        while sb.take_record().is_some() {}
        let large = || Mbuf::from_slice(&[0; 10_000]).unwrap();
        while sb.append_record(None, large()).is_ok() {}
        assert!(sb.len() <= sb.hiwat());
        sb.flush();
        assert_eq!(budget.held(), 0);
    }
}
