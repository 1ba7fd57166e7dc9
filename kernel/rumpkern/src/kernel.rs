//! The kernel as a value: what one rump kernel owns.

use crate::callout::Softclock;
use crate::counter::Counters;
use crate::kauth::Cred;
use crate::locks::{LockClass, Mutex, RwLock};
use crate::lwp::{self, Attached, KthreadHandle};
use crate::params::Config;
use crate::proc::Proc;
use crate::softint::SoftintQueue;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::{Any, TypeId};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use rumpuser::{Errno, Instant, host};

static KERNEL_CLASS: LockClass = LockClass {
    name: "kernel",
    rank: 810,
};

/// The most processes of one kernel.
pub const MAXPROC: usize = 1024;

/// What runs when a kernel shuts down.
type ShutdownHook = Box<dyn FnOnce() + Send>;

/// A rump kernel. Many may live in one process; they share nothing but the host and its memory.
///
/// What factions and components keep for it they put in by type: [`Kernel::provide`], [`Kernel::get`].
pub struct Kernel {
    config: Config,
    booted: Instant,
    provided: RwLock<Vec<(TypeId, Arc<dyn Any + Send + Sync>)>>,
    procs: Mutex<Vec<Arc<Proc>>>,
    next_pid: AtomicU32,
    fd_limit: usize,
    softclock: Arc<Softclock>,
    softints: Arc<SoftintQueue>,
    counters: Counters,
    random: crate::random::Generator,
    hooks: Mutex<Vec<(&'static str, ShutdownHook)>>,
    down: AtomicBool,
    threads: Mutex<Vec<KthreadHandle>>,
}

impl Kernel {
    /// A kernel with process 0 and no threads yet.
    pub(crate) fn new(config: Config) -> Arc<Kernel> {
        // A descriptor costs little, what it stands for costs a page or more.
        let fd_limit = (crate::uvm::limit_pages() * 2).clamp(64, 16384);
        let kernel = Arc::new(Kernel {
            config,
            booted: host().clock().now(),
            provided: RwLock::with_class(Vec::new(), &KERNEL_CLASS),
            procs: Mutex::with_class(Vec::new(), &KERNEL_CLASS),
            next_pid: AtomicU32::new(1),
            fd_limit,
            softclock: Softclock::new(),
            softints: SoftintQueue::new(),
            counters: Counters::default(),
            random: crate::random::Generator::new(),
            hooks: Mutex::with_class(Vec::new(), &KERNEL_CLASS),
            down: AtomicBool::new(false),
            threads: Mutex::with_class(Vec::new(), &KERNEL_CLASS),
        });
        let proc0 = Proc::new(
            0,
            Arc::downgrade(&kernel),
            Arc::new(Cred::root()),
            kernel.fd_limit,
        );
        kernel.procs.lock().push(Arc::new(proc0));
        kernel
    }

    /// Starts the kernel's own threads.
    pub(crate) fn start_threads(self: &Arc<Kernel>) -> Result<(), Errno> {
        let softclock = self.softclock.clone();
        let clock = self.spawn("softclock", move || softclock.run())?;
        self.threads.lock().push(clock);
        let softints = self.softints.clone();
        let softint = self.spawn("softint", move || softints.run())?;
        self.threads.lock().push(softint);
        Ok(())
    }

    /// What it was told at boot.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// When it was booted, in the host's time.
    pub fn booted(&self) -> Instant {
        self.booted
    }

    /// Puts a value in, to be found by its type.
    ///
    /// # Errors
    /// `EEXIST` if there is one of that type.
    pub fn provide<T: Any + Send + Sync>(&self, value: Arc<T>) -> Result<(), Errno> {
        let id = TypeId::of::<T>();
        let mut provided = self.provided.write();
        if provided.iter().any(|(other, _)| *other == id) {
            return Err(Errno::EEXIST);
        }
        provided.push((id, value));
        Ok(())
    }

    /// The value of type `T` that was put in.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let id = TypeId::of::<T>();
        let found = {
            let provided = self.provided.read();
            let (_, value) = provided.iter().find(|(other, _)| *other == id)?;
            value.clone()
        };
        found.downcast().ok()
    }

    /// Process 0, whose lwps are the kernel's own threads.
    pub fn proc0(&self) -> Arc<Proc> {
        self.procs.lock()[0].clone()
    }

    /// Makes a process with the credentials of the superuser and no descriptors.
    ///
    /// # Errors
    /// `EAGAIN` beyond [`MAXPROC`].
    pub fn new_proc(self: &Arc<Kernel>) -> Result<Arc<Proc>, Errno> {
        let pid = self.next_pid.fetch_add(1, Ordering::Relaxed);
        let proc = Arc::new(Proc::new(
            pid,
            Arc::downgrade(self),
            Arc::new(Cred::root()),
            self.fd_limit,
        ));
        let mut procs = self.procs.lock();
        if procs.len() >= MAXPROC {
            return Err(Errno::EAGAIN);
        }
        procs.push(proc.clone());
        Ok(proc)
    }

    /// The process numbered `pid`.
    pub fn find_proc(&self, pid: u32) -> Option<Arc<Proc>> {
        let procs = self.procs.lock();
        procs.iter().find(|proc| proc.pid() == pid).cloned()
    }

    /// Ends a process: closes its descriptors and forgets it. Its lwps see to their own end.
    /// Process 0 stays.
    pub fn exit_proc(&self, proc: &Arc<Proc>) {
        if proc.pid() == 0 {
            return;
        }
        self.procs.lock().retain(|other| !Arc::ptr_eq(other, proc));
        proc.fds().close_all();
        drop((proc.set_cwd(None), proc.set_root(None)));
    }

    /// Makes the calling thread an lwp of a new process, until dropped. The process ends with the last of its lwps:
    /// this one, and those that it started.
    ///
    /// # Errors
    /// As [`Kernel::new_proc`].
    pub fn attach(self: &Arc<Kernel>, name: &str) -> Result<Attached, Errno> {
        let proc = self.new_proc()?;
        proc.end_with_lwps();
        lwp::attach(&proc, name)
    }

    /// Starts a thread of the kernel's (kthread_create).
    ///
    /// # Errors
    /// `EAGAIN` when the host has no thread or stack left.
    pub fn spawn(
        self: &Arc<Kernel>,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<KthreadHandle, Errno> {
        lwp::spawn_in(&self.proc0(), name, run)
    }

    /// The callout clock.
    pub(crate) fn softclock(&self) -> &Arc<Softclock> {
        &self.softclock
    }

    /// The soft interrupts.
    pub(crate) fn softints(&self) -> &Arc<SoftintQueue> {
        &self.softints
    }

    /// The registry of counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The random generator.
    pub fn random(&self) -> &crate::random::Generator {
        &self.random
    }

    /// Registers what is to run at shutdown. Hooks run in reverse order of registration, each once.
    pub fn at_shutdown(&self, name: &'static str, hook: impl FnOnce() + Send + 'static) {
        let hook: ShutdownHook = Box::new(hook);
        self.hooks.lock().push((name, hook));
    }

    /// Whether shutdown has begun.
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }

    /// Shuts down: runs the hooks (file systems are unmounted by them), closes the descriptors of all
    /// processes, stops the kernel's threads. A second call does nothing.
    pub fn shutdown(&self) {
        if self.down.swap(true, Ordering::AcqRel) {
            return;
        }
        let procs: Vec<Arc<Proc>> = self.procs.lock().clone();
        for proc in procs {
            proc.fds().close_all();
            drop((proc.set_cwd(None), proc.set_root(None)));
        }
        loop {
            let hook = self.hooks.lock().pop();
            let Some((name, hook)) = hook else {
                break;
            };
            log::debug!("shutdown: {name}");
            hook();
        }
        self.softclock.stop();
        self.softints.stop();
        let threads = core::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A thread does not wait for itself, if a handler of its own brought us here.
            if thread.thread() != host().threads().current() {
                thread.join();
            }
        }
        let provided = core::mem::take(&mut *self.provided.write());
        // In reverse: a faction goes after what is built on it.
        for value in provided.into_iter().rev() {
            drop(value);
        }
    }

    /// Shuts down and ends the host: the process or the machine.
    pub fn halt(&self, status: u8) -> ! {
        self.shutdown();
        log::info!("halted, status {status}");
        host().exit().exit(status)
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
