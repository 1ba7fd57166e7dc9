//! Recognising, mounting and describing a volume, as `rumpvfs` asks for it.
//!
//! A mount's options, besides those that every file system has: `force` mounts in spite of flags that
//! are not known, for writing also a volume that was not left clean, and for reading one whose journal
//! cannot be replayed, as mount(8) `-f` does; `log` keeps a journal (`logging.rs`), which is made if there is none. `discard`
//! tells the device what becomes free ([`rumpvfs::discard`]).
//!
//! A journal that was in use is replayed ([`crate::recover`]): on the disk, or, mounted for reading, in memory.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use rumpkern::kmem;
use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::bufcache::Devvp;
use rumpvfs::vfsops::{FileSystem, Loaded, MountArgs, MountOptions, StatVfs, VfsOps};
use rumpvfs::vnode::{InodeNumber, VnodeType, Wait};

use crate::corrupt::{Corrupt, Fault};
use crate::inode::Inode;
use crate::order::Order;
use crate::raw::{FFS_MAXNAMLEN, UFS_ROOTINO};
use crate::superblock::{self, Clean, Flags, Format, Tolerance};
use crate::vnops::Node;
use crate::volume::Volume;

/// What the component registers.
pub struct Ffs;

impl Volume {
    /// Finds the superblock and decides whether the volume can be mounted for reading.
    fn open(device: &Devvp, options: &MountOptions) -> Result<Volume, Fault> {
        let tolerance = Tolerance {
            force: options.has("force"),
        };
        let sb = superblock::find(device, tolerance)?;
        if !sb.flags.contains(Flags::DOWAPBL) {
            return Ok(Volume::new(sb, device.clone()));
        }
        match Volume::replayed(&sb, device, tolerance) {
            Err(fault @ Fault::Corrupt(_)) if tolerance.force && options.read_only => {
                let _: Errno = fault.on(device.name()).into();
                Ok(Volume::new(sb, device.clone()))
            }
            outcome => outcome,
        }
    }

    /// Makes it writable as `options` say.
    fn write_as(&self, options: &MountOptions) -> Result<(), Fault> {
        self.open_for_writing(options.has("force"), options.has("log"))?;
        if options.has("discard") {
            self.discard_free();
        }
        Ok(())
    }

    /// Says on the console what was mounted, and what is to be said against it.
    fn announce(&self) {
        let (sb, name) = (&self.sb, self.device.name());
        let format = match sb.format {
            Format::Ufs1 => "UFS1",
            Format::Ufs2 => "UFS2",
            Format::Ufs2Ea => "UFS2 with attributes",
        };
        let order = match sb.order {
            Order::Little => "little",
            Order::Big => "big",
        };
        log::info!(
            "ffs: {name}: {format}, {order}-endian, blocks {}/{}, {} KiB",
            sb.bsize,
            sb.fsize,
            sb.size_bytes() / 1024
        );
        if self.is_replay_shown() {
            log::info!("ffs: {name}: its journal was replayed in memory; the disk stays as it is");
        } else if sb.flags.contains(Flags::DOWAPBL) {
            log::warn!("ffs: {name}: its journal was not replayed: files may be damaged");
        } else if sb.clean != Clean::IS_CLEAN {
            log::warn!("ffs: {name}: not unmounted cleanly: please check it");
        }
        let device = self.device.sectors().saturating_mul(SECTOR_SIZE as u64);
        if device < sb.size_bytes() {
            log::warn!(
                "ffs: {name}: the volume has {} bytes, the device only {device}",
                sb.size_bytes()
            );
        }
    }
}

impl VfsOps for Ffs {
    fn name(&self) -> &'static str {
        "ffs"
    }

    fn probe(&self, device: &Devvp) -> Result<bool, Errno> {
        match superblock::find(device, Tolerance::default()) {
            Ok(_) => Ok(true),
            Err(Fault::Corrupt(Corrupt::NoSuperblock)) => Ok(false),
            // It is one of ours; mounting it will say what is wrong.
            Err(Fault::Corrupt(_)) => Ok(true),
            Err(fault) => Err(fault.on(device.name()).into()),
        }
    }

    fn mount(&self, args: &MountArgs) -> Result<Arc<dyn FileSystem>, Errno> {
        let device = args.device()?;
        for (option, _) in &args.options.own {
            if !matches!(option.as_str(), "force" | "log" | "discard") {
                log::error!("ffs: {}: there is no option {option}", device.name());
                return Err(Errno::EINVAL);
            }
        }
        let volume = Volume::open(device, &args.options);
        let volume = volume.map_err(|fault| Errno::from(fault.on(device.name())))?;
        if !args.options.read_only {
            volume.told(volume.write_as(&args.options))?;
        }
        volume.announce();
        Ok(Arc::new(volume))
    }
}

impl FileSystem for Volume {
    fn root(&self) -> InodeNumber {
        InodeNumber::from(UFS_ROOTINO)
    }

    fn loadvnode(self: Arc<Self>, ino: InodeNumber) -> Result<Loaded, Errno> {
        let loaded = match u32::try_from(ino) {
            Ok(ino) => Inode::load(&self.sb, &self.device, ino),
            Err(_) => Err(Corrupt::InodeNumber { ino }.into()),
        };
        let inode = self.told(loaded)?;
        let vtype = inode.vtype;
        let size = match vtype {
            VnodeType::Reg | VnodeType::Dir | VnodeType::Lnk => inode.size,
            _ => 0,
        };
        Ok(Loaded {
            ops: kmem::try_box(Node::new(self, inode))?,
            vtype,
            size,
        })
    }

    fn statvfs(&self) -> Result<StatVfs, Errno> {
        let (sb, free) = (&self.sb, self.counts());
        let bfree = (free.free_blocks << sb.fragshift) + free.free_fragments;
        let bresvd = u128::from(sb.dsize) * u128::from(sb.minfree) / 100;
        let bresvd = bresvd as u64;
        Ok(StatVfs {
            bsize: u64::from(sb.bsize),
            frsize: u64::from(sb.fsize),
            blocks: sb.dsize,
            bfree,
            bavail: bfree.saturating_sub(bresvd),
            bresvd,
            // Numbers 0 and 1 are no file's.
            files: u64::from(sb.inodes()).saturating_sub(2),
            ffree: free.free_inodes,
            namemax: FFS_MAXNAMLEN as u32,
            read_only: !self.is_writable(),
        })
    }

    fn sync(&self, _: Wait) -> Result<(), Errno> {
        match self.told(self.commit())? {
            true => Ok(()),
            false => self.told(self.store_superblock()),
        }
    }

    fn keeps_log(&self) -> bool {
        self.log().is_some()
    }

    fn unmount(&self) -> Result<(), Errno> {
        self.told(self.close_for_writing())
    }

    fn abandon(&self) {
        self.abandon_writing();
    }

    fn remount(&self, options: &MountOptions) -> Result<(), Errno> {
        match (options.read_only, self.is_writable()) {
            (true, true) => {
                // Their blocks could not be freed any more.
                if self.nameless.load(Ordering::Acquire) > 0 {
                    return Err(Errno::EBUSY);
                }
                self.told(self.close_for_writing())
            }
            (false, false) => self.told(self.write_as(options)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
