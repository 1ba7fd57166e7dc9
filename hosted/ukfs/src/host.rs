//! The host of this process, and the kernels on it.

use crate::error::Error;
use rump::{Config, Kernel};
use rumpkern::lwp::{self, Attached};
use rumpkern::proc::Proc;
use rumpuser::Errno;
use rumpuser_hosted::Host;
use std::sync::{Arc, Mutex, PoisonError};

/// Address space for the kernels' memory, where nobody sets a limit. What is not used is not committed.
const MEMORY: usize = 128 << 20;

/// Installs the host, unless the program has installed one.
fn install(memory: usize) -> Result<(), Errno> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if rumpuser::try_host().is_some() {
        return Ok(());
    }
    Host::builder().memory(memory).install().map(drop)
}

/// A kernel for one image, and the process in it on whose behalf the program's threads act.
pub(crate) struct Rump {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) proc: Arc<Proc>,
}

impl Rump {
    pub(crate) fn boot(who: &str, memory_limit: Option<usize>) -> Result<Rump, Error> {
        let told = |errno| Error::new(format!("{who}: a kernel cannot be booted"), errno);
        // The table of pages is part of the budget: no larger than it has to be.
        install(memory_limit.unwrap_or(MEMORY)).map_err(told)?;
        let config = Config {
            memlimit: memory_limit,
            // Also the threshold of autoconfiguration's lines, which are nobody's business here.
            loglevel: log::LevelFilter::Error,
            ..Config::default()
        };
        let components = [
            &rumpvfs::COMPONENT,
            &rumpdev::COMPONENT,
            &rumpfs_ffs::COMPONENT,
        ];
        let kernel = Kernel::boot(config, &components).map_err(told)?;
        let proc = kernel.new_proc().map_err(|errno| {
            kernel.shutdown();
            told(errno)
        })?;
        Ok(Rump { kernel, proc })
    }

    /// Makes the calling thread one of the kernel's for a while. Cheap where it is one already.
    pub(crate) fn enter(&self) -> Result<Option<Attached>, Errno> {
        match rump_process() {
            Some(own) if Arc::ptr_eq(&own, &self.proc) => Ok(None),
            _ => lwp::attach(&self.proc, "ukfs").map(Some),
        }
    }
}

fn rump_process() -> Option<Arc<Proc>> {
    rumpkern::curproc().ok()
}

impl Drop for Rump {
    fn drop(&mut self) {
        // A thread of the kernel's may wait for memory.
        let attached = lwp::attach(&self.kernel.proc0(), "ukfs");
        self.kernel.exit_proc(&self.proc);
        self.kernel.shutdown();
        drop(attached);
    }
}
