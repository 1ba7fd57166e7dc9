//! Bringing the faction up with a kernel, and mounting what the command line says.

use crate::vfs::{MountRequest, Sizes, Vfs};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use rumpkern::init::{Class, Component};
use rumpkern::kernel::Kernel;
use rumpkern::params::MountSpec;
use rumpkern::uvm::{self, Drain};
use rumpkern::{aprint, curkernel, random};
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
    kernel.counters().register_group(counters);
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

/// The counters of the faction of the kernel that asks.
fn counters(say: &mut dyn FnMut(&str, &str, u64)) {
    let Some(vfs) = curkernel().and_then(|kernel| kernel.get::<Vfs>()) else {
        return;
    };
    let s = vfs.stats();
    say(
        "vfs_vnodes",
        "vnodes, in use or cached",
        s.vnodes.vnodes as u64,
    );
    say(
        "vfs_vnode_hits_total",
        "vnodes found in the cache",
        s.vnodes.hits,
    );
    say("vfs_vnode_loads_total", "vnodes brought in", s.vnodes.loads);
    say(
        "vfs_vnode_reclaims_total",
        "vnodes forgotten",
        s.vnodes.reclaims,
    );
    say(
        "vfs_name_hits_total",
        "names found in the cache",
        s.names.hits,
    );
    say(
        "vfs_name_negative_hits_total",
        "names known not to exist",
        s.names.negative_hits,
    );
    say(
        "vfs_name_misses_total",
        "names asked of file systems",
        s.names.misses,
    );
    say(
        "vfs_buffers",
        "metadata buffers cached",
        s.buffers.buffers as u64,
    );
    say(
        "vfs_buffer_hits_total",
        "buffers found in the cache",
        s.buffers.hits,
    );
    say("vfs_buffer_misses_total", "buffers read", s.buffers.misses);
    say(
        "vfs_buffer_writes_total",
        "buffers written",
        s.buffers.writes,
    );
    say(
        "vfs_page_hits_total",
        "accesses to cached pages",
        s.pages.hits,
    );
    say(
        "vfs_page_misses_total",
        "accesses to pages not cached",
        s.pages.misses,
    );
    say(
        "vfs_page_read_requests_total",
        "requests that read pages",
        s.pages.reads,
    );
    say("vfs_page_reads_total", "pages read", s.pages.pages_read);
    say(
        "vfs_page_ahead_total",
        "pages read ahead",
        s.pages.pages_ahead,
    );
    say(
        "vfs_page_writes_total",
        "pages written",
        s.pages.pages_written,
    );
    say(
        "vfs_dirty_pages",
        "pages that the disk does not have yet",
        s.pages.dirty as u64,
    );
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
