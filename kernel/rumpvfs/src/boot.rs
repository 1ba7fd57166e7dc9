//! Bringing the faction up with a kernel, and mounting what the command line says.

use crate::vfs::{MountRequest, Sizes, Vfs};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use rumpkern::init::{Class, Component};
use rumpkern::kernel::Kernel;
use rumpkern::params::MountSpec;
use rumpkern::uvm::{self, Drain};
use rumpkern::{aprint, random};
use rumpuser::Errno;

/// The file-system faction.
pub const COMPONENT: Component = Component {
    name: "rumpvfs",
    class: Class::VfsFaction,
    init,
};

/// What is asked to give memory back first: buffers are read again cheaply, a vnode loses all its pages.
const DRAIN_BUFFERS: u32 = 20;
const DRAIN_VNODES: u32 = 30;

fn init(kernel: &Arc<Kernel>) -> Result<(), Errno> {
    let mut bits = [0; 6];
    for word in &mut bits {
        *word = random::u64()?;
    }
    let mut bits = bits.into_iter();
    let vfs = Vfs::new(Sizes::for_pages(uvm::limit_pages()), || {
        bits.next().unwrap_or(0)
    })?;
    let buffers: Weak<dyn Drain> = Arc::<crate::bufcache::BufCache>::downgrade(vfs.bufs());
    uvm::register_drain("bufcache", DRAIN_BUFFERS, buffers)?;
    let vnodes: Weak<dyn Drain> = Arc::<crate::vnode::VnodeCache>::downgrade(&vfs.vnodes);
    uvm::register_drain("vnodes", DRAIN_VNODES, vnodes)?;
    register_counters(kernel, &vfs)?;
    let (kernel_later, vfs_later) = (Arc::downgrade(kernel), Arc::downgrade(&vfs));
    let first_mount = move || {
        let down = vfs_later.clone();
        let Some(kernel) = kernel_later.upgrade() else {
            return;
        };
        kernel.at_shutdown("file systems", move || {
            if let Some(vfs) = down.upgrade() {
                vfs.stop_syncer();
                vfs.unmount_all();
            }
        });
    };
    // It is new: nobody has set one.
    let _ = vfs.first_mount.set(Box::new(first_mount));
    kernel.provide(vfs)
}

fn register_counters(kernel: &Arc<Kernel>, vfs: &Arc<Vfs>) -> Result<(), Errno> {
    type Get = fn(&crate::vfs::VfsStats) -> u64;
    let counters: [(&str, &'static str, Get); 18] = [
        ("vfs_vnodes", "vnodes, in use or cached", |s| {
            s.vnodes.vnodes as u64
        }),
        ("vfs_vnode_hits_total", "vnodes found in the cache", |s| {
            s.vnodes.hits
        }),
        ("vfs_vnode_loads_total", "vnodes brought in", |s| {
            s.vnodes.loads
        }),
        ("vfs_vnode_reclaims_total", "vnodes forgotten", |s| {
            s.vnodes.reclaims
        }),
        ("vfs_name_hits_total", "names found in the cache", |s| {
            s.names.hits
        }),
        (
            "vfs_name_negative_hits_total",
            "names known not to exist",
            |s| s.names.negative_hits,
        ),
        (
            "vfs_name_misses_total",
            "names asked of file systems",
            |s| s.names.misses,
        ),
        ("vfs_buffers", "metadata buffers cached", |s| {
            s.buffers.buffers as u64
        }),
        ("vfs_buffer_hits_total", "buffers found in the cache", |s| {
            s.buffers.hits
        }),
        ("vfs_buffer_misses_total", "buffers read", |s| {
            s.buffers.misses
        }),
        ("vfs_buffer_writes_total", "buffers written", |s| {
            s.buffers.writes
        }),
        ("vfs_page_hits_total", "accesses to cached pages", |s| {
            s.pages.hits
        }),
        (
            "vfs_page_misses_total",
            "accesses to pages not cached",
            |s| s.pages.misses,
        ),
        (
            "vfs_page_read_requests_total",
            "requests that read pages",
            |s| s.pages.reads,
        ),
        ("vfs_page_reads_total", "pages read", |s| s.pages.pages_read),
        ("vfs_page_ahead_total", "pages read ahead", |s| {
            s.pages.pages_ahead
        }),
        ("vfs_page_writes_total", "pages written", |s| {
            s.pages.pages_written
        }),
        (
            "vfs_dirty_pages",
            "pages that the disk does not have yet",
            |s| s.pages.dirty as u64,
        ),
    ];
    for (name, help, get) in counters {
        let vfs = Arc::downgrade(vfs);
        let value = move || vfs.upgrade().map_or(0, |vfs| get(&vfs.stats()));
        kernel.counters().register(name, help, value)?;
    }
    Ok(())
}

impl Vfs {
    /// Mounts what the kernel's configuration says, in order. Says what cannot be mounted, and goes on. Answers how many
    /// are mounted.
    pub fn mount_configured(self: &Arc<Self>, kernel: &Arc<Kernel>) -> usize {
        let mut mounted = 0;
        for spec in &kernel.config().mounts {
            match self.mount_spec(kernel, spec) {
                Ok(()) => mounted += 1,
                Err(errno) => log::error!(
                    "{}: cannot be mounted on {}: {errno}",
                    spec.device,
                    spec.path
                ),
            }
        }
        mounted
    }

    /// Mounts one of them. A disk with partitions, but no file system of its own, stands for its first
    /// partition that has one. A file system that cannot be written is mounted read-only.
    fn mount_spec(self: &Arc<Self>, kernel: &Arc<Kernel>, spec: &MountSpec) -> Result<(), Errno> {
        let device = self.device(&spec.device).ok_or(Errno::ENXIO)?;
        let part = match self.probe(&device) {
            Err(Errno::EFTYPE) => self.first_part_with_fs(&device),
            _ => None,
        };
        let device = part.unwrap_or(device);
        let request = MountRequest {
            device: device.name(),
            path: &spec.path,
            fstype: spec.fstype.as_deref(),
            options: &spec.options,
        };
        let cred = kernel.proc0().cred();
        let mount = match self.mount(&cred, &request) {
            Err(Errno::EROFS) => {
                let options = alloc::format!("{},ro", spec.options);
                let request = MountRequest {
                    options: &options,
                    ..request
                };
                self.mount(&cred, &request)?
            }
            mount => mount?,
        };
        let how = if mount.is_read_only() {
            ", read-only"
        } else {
            ""
        };
        aprint!("{} ({}{how})", mount.name(), mount.fstype());
        if !mount.is_read_only() {
            self.start_syncer(kernel)?;
        }
        Ok(())
    }

    /// The first partition of `disk` that has a known file system.
    fn first_part_with_fs(
        &self,
        disk: &Arc<dyn crate::specfs::BlockIo>,
    ) -> Option<Arc<dyn crate::specfs::BlockIo>> {
        let parts = self.devices().into_iter();
        let mut parts = parts.filter(|part| part.part_of() == Some(disk.dev()));
        parts.find(|part| self.probe(part).is_ok())
    }
}
