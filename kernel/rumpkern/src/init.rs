//! Booting: components, their classes, and the order of things (NetBSD `rump_init`).

use crate::kernel::Kernel;
use crate::params::Config;
use crate::{aprint, logger, lwp, uvm};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use rumpuser::{Errno, PAGE_SIZE, host};

/// When a component is brought up, in this order. Components of one class come in the order in which
/// the program names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Kernel subsystems.
    Kern,
    /// The file-system faction.
    VfsFaction,
    /// File systems.
    Vfs,
    /// The networking faction.
    NetFaction,
    /// What protocol domains share.
    Net,
    /// Routing.
    NetRoute,
    /// Interfaces.
    NetIf,
    /// Addresses of interfaces.
    NetIfCfg,
    /// The device faction.
    DevFaction,
    /// Device drivers.
    Dev,
    /// Parts of the kernel that need the root file system.
    KernVfs,
    /// What comes last.
    PostInit,
}

/// A part of the kernel that a program names to have it.
pub struct Component {
    /// For the boot log and for reports.
    pub name: &'static str,
    /// When it is brought up.
    pub class: Class,
    /// Brings it up. Runs in an lwp of process 0.
    pub init: fn(&Arc<Kernel>) -> Result<(), Errno>,
}

impl Kernel {
    /// Boots a kernel: memory, threads, then the components by class.
    ///
    /// # Errors
    /// `EINVAL` for a memory limit that is too small, `ENOMEM` for one above what the host has, the host's if
    /// it has no threads, and what a component answers. What was brought up is shut down again.
    pub fn boot(config: Config, components: &[&Component]) -> Result<Arc<Kernel>, Errno> {
        logger::install(config.loglevel);
        if let Some(limit) = config.memlimit {
            limit_memory(limit)?;
        }
        // Any allocation would have brought memory up; a hosted program's are its own.
        let marks = uvm::marks();
        if marks.limit == 0 && !uvm::ready() {
            log::error!("uvm: the host has no memory for the kernel");
            return Err(Errno::ENOMEM);
        }
        // Memory is the process's: its first kernel announces it.
        static ANNOUNCED: AtomicBool = AtomicBool::new(false);
        if !ANNOUNCED.swap(true, Ordering::Relaxed) {
            announce_memory();
        }
        uvm::start_pagedaemon()?;
        let kernel = Kernel::new(config);
        let booted = kernel.bring_up(components);
        if let Err(errno) = booted {
            kernel.shutdown();
            return Err(errno);
        }
        Ok(kernel)
    }

    fn bring_up(self: &Arc<Kernel>, components: &[&Component]) -> Result<(), Errno> {
        self.start_threads()?;
        self.counters().register_group(uvm::counters);
        self.counters().register_group(crate::kmem::counters);
        let attached = lwp::attach(&self.proc0(), "boot")?;
        let mut order: Vec<&Component> = components.to_vec();
        // Stable: within a class the program's order stays.
        order.sort_by_key(|component| component.class);
        for component in order {
            log::debug!("{}: attaching", component.name);
            (component.init)(self).inspect_err(|errno| {
                log::error!("{}: cannot be brought up: {errno}", component.name);
            })?;
        }
        drop(attached);
        Ok(())
    }
}

fn limit_memory(limit: usize) -> Result<(), Errno> {
    uvm::set_limit(limit.min(uvm::physmem_bytes())).inspect_err(|errno| match *errno {
        Errno::EINVAL => log::error!(
            "memlimit={limit}: at least {} bytes are needed",
            uvm::MINIMUM_LIMIT_BYTES
        ),
        errno => log::error!("memlimit={limit}: {errno}"),
    })?;
    if limit < 1 << 20 {
        log::warn!("memlimit={limit}: less than 1 MB, things will be slow");
    }
    Ok(())
}

fn announce_memory() {
    let marks = uvm::marks();
    let kib = |pages: usize| pages * (PAGE_SIZE / 1024);
    aprint!(
        "total memory = {} KB, limit {} KB, reserve {} KB, avail memory = {} KB",
        kib(host().memory().regions().iter().map(|r| r.pages).sum()),
        kib(marks.limit),
        kib(marks.reserve),
        kib(uvm::stats().free),
    );
}
