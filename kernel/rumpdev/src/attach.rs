//! Finding the host's disks, and their partitions.

use crate::autoconf::Autoconf;
use crate::disk::{Backend, Disk, DiskPart};
use crate::partition::{self, PartitionName};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use rumpkern::curkernel;
use rumpkern::init::{Class, Component};
use rumpkern::kernel::Kernel;
use rumpkern::locks::Mutex;
use rumpkern::uvm::dma::BlockQueue;
use rumpuser::{Errno, host};
use rumpvfs::Vfs;
use rumpvfs::specfs::BlockIo;

/// The device faction: the device tree.
pub const COMPONENT: Component = Component {
    name: "rumpdev",
    class: Class::DevFaction,
    init: |kernel| {
        kernel.provide(Arc::new(Autoconf::default()))?;
        kernel.counters().register_group(counters);
        kernel.provide(Arc::new(Disks::default()))
    },
};

/// The host's block devices as disks.
pub const DISKS: Component = Component {
    name: "ld",
    class: Class::Dev,
    init: attach_host_disks,
};

/// The counters of the disks of the kernel that asks.
fn counters(say: &mut dyn FnMut(&str, &str, u64)) {
    let Some(disks) = curkernel().and_then(|kernel| kernel.get::<Disks>()) else {
        return;
    };
    for disk in disks.list() {
        let stats = disk.stats();
        let counters = [
            ("reads", "requests that read", stats.reads),
            ("read_sectors", "sectors read", stats.read_sectors),
            ("writes", "requests that wrote", stats.writes),
            ("written_sectors", "sectors written", stats.written_sectors),
            ("flushes", "requests that made writes stable", stats.flushes),
            ("errors", "requests that failed", stats.errors),
        ];
        for (name, help, value) in counters {
            let name = alloc::format!("disk_{}_{name}_total", disk.name());
            say(&name, help, value);
        }
    }
}

/// The most block devices of a host that are looked at.
const MAX_DISKS: usize = 64;

/// The disks of a kernel. It is in the kernel by its type: `kernel.get::<Disks>()`.
#[derive(Default)]
pub struct Disks {
    list: Mutex<alloc::vec::Vec<Arc<Disk>>>,
    wedges: AtomicU64,
}

impl Disks {
    /// The disks, in the order in which they were attached.
    pub fn list(&self) -> alloc::vec::Vec<Arc<Disk>> {
        self.list.lock().clone()
    }
}

fn attach_host_disks(kernel: &Arc<Kernel>) -> Result<(), Errno> {
    for unit in 0..MAX_DISKS {
        let Some(device) = host().block_device(unit) else {
            return Ok(());
        };
        let queue = BlockQueue::attach(kernel, device)?;
        attach_disk(kernel, queue)?;
    }
    log::warn!("ld: only the first {MAX_DISKS} disks of the host are used");
    Ok(())
}

/// Attaches the disk on `backend` as the next `ld`, with its partitions, and gives them all to the file systems. A disk
/// whose partition tables cannot be read is attached without partitions.
///
/// # Errors
/// `ENXIO`: the kernel has no device faction. `ENOMEM`.
pub fn attach_disk(kernel: &Arc<Kernel>, backend: Arc<dyn Backend>) -> Result<Arc<Disk>, Errno> {
    let autoconf = kernel.get::<Autoconf>().ok_or(Errno::ENXIO)?;
    let disks = kernel.get::<Disks>().ok_or(Errno::ENXIO)?;
    let mut list = disks.list.lock();
    let disk = Disk::new(list.len() as u32, backend);
    list.push(disk.clone());
    drop(list);
    autoconf.attach(disk.name(), disk.parent(), &disk.description())?;
    let vfs = kernel.get::<Vfs>();
    let give = |device: Arc<dyn BlockIo>| vfs.as_ref().map_or(Ok(()), |vfs| vfs.add_device(device));
    give(disk.clone())?;
    let found = match partition::scan(disk.name(), &*disk) {
        Ok(found) => found,
        Err(errno) => {
            log::error!("{}: partition tables cannot be read: {errno}", disk.name());
            return Ok(disk);
        }
    };
    for (number, part) in (1..).zip(found) {
        let name = match part.name {
            PartitionName::Letter(letter) => alloc::format!("{}{letter}", disk.name()),
            PartitionName::Wedge => {
                alloc::format!("dk{}", disks.wedges.fetch_add(1, Ordering::Relaxed))
            }
        };
        let label = match part.label.as_str() {
            "" => alloc::string::String::new(),
            label => alloc::format!("\"{label}\", "),
        };
        let text = alloc::format!(
            "{label}{} blocks at {}, type: {}",
            part.sectors,
            part.start,
            part.kind
        );
        autoconf.attach(&name, disk.name(), &text)?;
        give(DiskPart::new(disk.clone(), number, name, part))?;
    }
    Ok(disk)
}
