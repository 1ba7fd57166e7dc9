//! Lwps: the kernel's threads, and who the calling one is.
//!
//! An lwp is a host thread that works for a process of a kernel. It is made by [`spawn`], or a thread
//! that the program already has becomes one by [`attach`] (NetBSD's rump_lwproc_newlwp). The host
//! keeps one word per thread for the kernel: here, the address of the [`Lwp`].

#![allow(unsafe_code)]

use crate::kernel::Kernel;
#[cfg(debug_assertions)]
use crate::locks::Held;
use crate::locks::{Condvar, Mutex};
use crate::proc::{Membership, Proc};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU8, Ordering};
use rumpuser::{Errno, ThreadId, ThreadMain, ThreadSpec, host, try_host};

/// What an lwp may do when memory is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryUse {
    /// Wait for the pagedaemon: the usual.
    MayWait,
    /// Fail rather than wait: for a stretch of code that can do without, and must not stand still.
    NoWait,
    /// Not wait, but use the reserve: the pagedaemon, and the threads that run I/O completions, since
    /// others wait for them.
    Reserve,
}

const MAY_WAIT: u8 = 0;
const NO_WAIT: u8 = 1;
const RESERVE: u8 = 2;

fn number_of(memory_use: MemoryUse) -> u8 {
    match memory_use {
        MemoryUse::MayWait => MAY_WAIT,
        MemoryUse::NoWait => NO_WAIT,
        MemoryUse::Reserve => RESERVE,
    }
}

/// A thread of a kernel's.
pub struct Lwp {
    name: Box<str>,
    thread: ThreadId,
    /// None for the threads of uvm, which belong to no kernel.
    kernel: Option<Arc<Kernel>>,
    proc: Option<Arc<Proc>>,
    memory_use: AtomicU8,
    #[cfg(debug_assertions)]
    held: OwnHeld,
}

/// The locks an lwp holds: only its own thread looks. Kept where the order of locks is checked.
#[cfg(debug_assertions)]
struct OwnHeld(Held);

// SAFETY: `with_held` is the only access, and gives it to the lwp's own thread alone.
#[cfg(debug_assertions)]
unsafe impl Sync for OwnHeld {}

impl Lwp {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's thread under it.
    pub fn thread(&self) -> ThreadId {
        self.thread
    }

    /// Its kernel.
    pub fn kernel(&self) -> Option<&Arc<Kernel>> {
        self.kernel.as_ref()
    }

    /// Its process.
    pub fn proc(&self) -> Option<&Arc<Proc>> {
        self.proc.as_ref()
    }

    fn memory_use(&self) -> MemoryUse {
        match self.memory_use.load(Ordering::Relaxed) {
            MAY_WAIT => MemoryUse::MayWait,
            NO_WAIT => MemoryUse::NoWait,
            _ => MemoryUse::Reserve,
        }
    }
}

/// Calls `f` with the calling thread's lwp, if it is one.
#[inline]
fn with_current<R>(f: impl FnOnce(&Lwp) -> R) -> Option<R> {
    let word = try_host()?.threads().local();
    let lwp = core::ptr::with_exposed_provenance::<Lwp>(word);
    // SAFETY: the word is 0 or was set by `Identity::take_on`, from an `Arc` that the `Identity` keeps
    // until it resets the word, on this very thread; so it is alive during this call.
    unsafe { lwp.as_ref() }.map(f)
}

/// Calls `f` with the locks that the calling lwp holds.
#[cfg(debug_assertions)]
#[inline]
pub(crate) fn with_held(f: impl FnOnce(&Held)) {
    with_current(|lwp| f(&lwp.held.0));
}

/// The calling lwp; `None` on a thread that is none.
pub fn curlwp() -> Option<Arc<Lwp>> {
    with_current(|lwp| {
        let lwp: *const Lwp = lwp;
        // SAFETY: see `Identity::take_on`: the address is that of an `Arc`'s content, alive now.
        unsafe { Arc::increment_strong_count(lwp) };
        // SAFETY: the count was raised for this handle.
        unsafe { Arc::from_raw(lwp) }
    })
}

/// The calling lwp's process.
///
/// # Errors
/// `ESRCH` on a thread that is no lwp, or belongs to no process.
pub fn curproc() -> Result<Arc<Proc>, Errno> {
    with_current(|lwp| lwp.proc.clone())
        .flatten()
        .ok_or(Errno::ESRCH)
}

/// The number of the calling lwp's process.
///
/// # Errors
/// As [`curproc`].
pub fn curpid() -> Result<u32, Errno> {
    with_current(|lwp| lwp.proc.as_ref().map(|proc| proc.pid()))
        .flatten()
        .ok_or(Errno::ESRCH)
}

/// The calling lwp's kernel.
pub fn curkernel() -> Option<Arc<Kernel>> {
    with_current(|lwp| lwp.kernel.clone()).flatten()
}

/// What the calling thread may do when memory is short; `None` if it is no lwp.
pub fn memory_use() -> Option<MemoryUse> {
    with_current(Lwp::memory_use)
}

/// Changes what the calling lwp may do when memory is short, until the guard is dropped.
pub fn set_memory_use(memory_use: MemoryUse) -> MemoryUseGuard {
    let value = number_of(memory_use);
    let before =
        with_current(|lwp| lwp.memory_use.swap(value, Ordering::Relaxed)).unwrap_or(MAY_WAIT);
    MemoryUseGuard {
        before,
        not_send: PhantomData,
    }
}

/// Makes the calling lwp's allocations fail rather than wait, until the guard is dropped; one that uses the reserve
/// goes on to. For a stretch under a lock that I/O completions take.
pub fn refuse_to_wait() -> MemoryUseGuard {
    match memory_use() {
        Some(MemoryUse::Reserve) => set_memory_use(MemoryUse::Reserve),
        _ => set_memory_use(MemoryUse::NoWait),
    }
}

/// Restores the former [`MemoryUse`].
#[must_use = "the former use comes back when this is dropped"]
pub struct MemoryUseGuard {
    before: u8,
    not_send: PhantomData<*const ()>,
}

impl Drop for MemoryUseGuard {
    fn drop(&mut self) {
        with_current(|lwp| lwp.memory_use.store(self.before, Ordering::Relaxed));
    }
}

/// A thread's being an lwp: keeps the lwp alive, and the thread's word pointing to it.
struct Identity {
    lwp: Arc<Lwp>,
    membership: Option<Membership>,
    before: usize,
    not_send: PhantomData<*const ()>,
}

impl Identity {
    fn take_on(lwp: Arc<Lwp>, membership: Option<Membership>) -> Identity {
        let threads = host().threads();
        let before = threads.local();
        threads.set_local(Arc::as_ptr(&lwp).expose_provenance());
        Identity {
            lwp,
            membership,
            before,
            not_send: PhantomData,
        }
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        // A process that ends with this closes its files, which is an lwp's work.
        drop(self.membership.take());
        host().threads().set_local(self.before);
    }
}

fn new_lwp(
    name: &str,
    kernel: Option<Arc<Kernel>>,
    proc: Option<Arc<Proc>>,
    memory_use: MemoryUse,
) -> Arc<Lwp> {
    Arc::new(Lwp {
        name: name.into(),
        thread: host().threads().current(),
        kernel,
        proc,
        memory_use: AtomicU8::new(number_of(memory_use)),
        #[cfg(debug_assertions)]
        held: OwnHeld(Held::new()),
    })
}

/// The calling thread as an lwp of a process, until dropped; then what it was before.
#[must_use = "the thread is an lwp until this is dropped"]
pub struct Attached {
    identity: Identity,
}

impl Attached {
    /// The lwp.
    pub fn lwp(&self) -> &Arc<Lwp> {
        &self.identity.lwp
    }
}

/// Makes the calling thread an lwp of `proc`. May be nested: the innermost counts.
///
/// # Errors
/// `ESRCH` if the process's kernel is gone.
pub fn attach(proc: &Arc<Proc>, name: &str) -> Result<Attached, Errno> {
    let kernel = proc.kernel().ok_or(Errno::ESRCH)?;
    let lwp = new_lwp(name, Some(kernel), Some(proc.clone()), MemoryUse::MayWait);
    Ok(Attached {
        identity: Identity::take_on(lwp, Some(proc.enter())),
    })
}

/// What a new thread needs to become its lwp.
struct Start {
    name: Box<str>,
    kernel: Option<Arc<Kernel>>,
    proc: Option<Arc<Proc>>,
    /// From here on, so that the process does not end before its thread begins.
    membership: Option<Membership>,
    memory_use: MemoryUse,
    run: Box<dyn FnOnce() + Send>,
    ended: Arc<Ended>,
}

#[derive(Default)]
struct Ended {
    ended: Mutex<bool>,
    condition: Condvar,
}

/// Says that the thread ended, also if its function unwinds.
struct SayEnded(Arc<Ended>);

impl Drop for SayEnded {
    fn drop(&mut self) {
        *self.0.ended.lock() = true;
        self.0.condition.notify_all();
    }
}

/// A thread that was started.
pub struct KthreadHandle {
    thread: ThreadId,
    ended: Arc<Ended>,
}

impl KthreadHandle {
    /// Waits until the thread has ended.
    pub fn join(self) {
        let mut ended = self.ended.ended.lock();
        while !*ended {
            ended = self.ended.condition.wait(ended);
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        *self.ended.ended.lock()
    }

    /// The host's thread.
    pub fn thread(&self) -> ThreadId {
        self.thread
    }
}

fn entry(argument: usize) {
    let start = core::ptr::with_exposed_provenance_mut::<Start>(argument);
    // SAFETY: `start_thread` made the argument by `Box::into_raw` and gave it to this thread only;
    // the host calls the entry once.
    let start = unsafe { Box::from_raw(start) };
    let Start {
        name,
        kernel,
        proc,
        membership,
        memory_use,
        run,
        ended,
    } = *start;
    let said = SayEnded(ended);
    let lwp = new_lwp(&name, kernel, proc, memory_use);
    let identity = Identity::take_on(lwp, membership);
    run();
    drop(identity);
    drop(said);
}

fn start_thread(start: Start) -> Result<KthreadHandle, Errno> {
    let ended = start.ended.clone();
    let start = Box::new(start);
    let name = start.name.clone();
    let argument = Box::into_raw(start).expose_provenance();
    let spec = ThreadSpec {
        name: &name,
        stack_bytes: 0,
    };
    match host().threads().spawn(spec, ThreadMain { entry, argument }) {
        Ok(thread) => Ok(KthreadHandle { thread, ended }),
        Err(errno) => {
            let start = core::ptr::with_exposed_provenance_mut::<Start>(argument);
            // SAFETY: made by `Box::into_raw` above, and the host says that it started nothing.
            drop(unsafe { Box::from_raw(start) });
            Err(errno)
        }
    }
}

/// Starts an lwp of `proc`'s (lwp_create).
///
/// # Errors
/// `EAGAIN` when the host has no thread or stack left; `ESRCH` if the process's kernel is gone.
pub fn spawn_in(
    proc: &Arc<Proc>,
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<KthreadHandle, Errno> {
    let kernel = proc.kernel().ok_or(Errno::ESRCH)?;
    start_thread(Start {
        name: name.into(),
        kernel: Some(kernel),
        proc: Some(proc.clone()),
        membership: Some(proc.enter()),
        memory_use: MemoryUse::MayWait,
        run: Box::new(run),
        ended: Arc::default(),
    })
}

/// Starts an lwp of the calling lwp's process.
///
/// # Errors
/// As [`spawn_in`]; `ESRCH` on a thread that is no lwp.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<KthreadHandle, Errno> {
    spawn_in(&curproc()?, name, run)
}

/// Starts a thread that belongs to no kernel and may use the reserve.
pub(crate) fn spawn_reserve(name: &str, run: fn()) -> Result<KthreadHandle, Errno> {
    start_thread(Start {
        name: name.into(),
        kernel: None,
        proc: None,
        membership: None,
        memory_use: MemoryUse::Reserve,
        run: Box::new(run),
        ended: Arc::default(),
    })
}
