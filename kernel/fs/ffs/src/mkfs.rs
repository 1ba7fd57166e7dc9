//! Makes an empty volume, as newfs(8) does.
//!
//! [`Plan::new`] decides the geometry; [`Plan::write`] writes it by way of a function that writes
//! bytes somewhere. Stale superblocks are overwritten first and the primary superblock is written
//! last, so that a volume half made is no volume.
//!
//! Source: NetBSD newfs(8) and sys/ufs/ffs/fs.h, for parameters and layout.

mod write;

use rumpuser::Errno;
use zerocopy::{BE, LE};

use crate::order::Order;
use crate::raw;
use crate::superblock::Format;
use write::Maker;

/// Writes bytes at an offset of the new volume.
pub type Writer<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), Errno>;

/// What the volume is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which format.
    pub format: Format,
    /// Which byte order.
    pub order: Order,
    /// Bytes of the device.
    pub size: u64,
    /// Bytes of a block; `None`: eight fragments.
    pub bsize: Option<u32>,
    /// Bytes of a fragment; `None`: by the size of the device.
    pub fsize: Option<u32>,
    /// Bytes of the device for each inode; `None`: four fragments.
    pub density: Option<u32>,
    /// Most fragments of a cylinder group; `None`: as many as the maps have room for.
    pub max_fpg: Option<u32>,
    /// Space kept back, in percent.
    pub minfree: u32,
    /// Name of the volume, padded with NULs.
    pub volname: [u8; 32],
    /// Now, in seconds since 1970.
    pub time: i64,
    /// Something random: the volume's identity, and where the inodes' generations start.
    pub seed: u32,
}

impl Options {
    /// newfs's defaults for a device of `size` bytes.
    pub fn new(format: Format, size: u64) -> Options {
        Options {
            format,
            order: Order::Little,
            size,
            bsize: None,
            fsize: None,
            density: None,
            max_fpg: None,
            minfree: 5,
            volname: [0; 32],
            time: 0,
            seed: 0,
        }
    }
}

/// The geometry of a volume to be made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    options: Options,
    bsize: u32,
    fsize: u32,
    frag: u32,
    inopb: u32,
    sblockloc: u64,
    sblkno: u32,
    cblkno: u32,
    iblkno: u32,
    dblkno: u32,
    ipg: u32,
    fpg: u32,
    ncg: u32,
    size: u64,
    contigsumsize: u32,
    cgsize: u32,
    cssize: u32,
}

/// Fragment size that newfs takes for a device of `size` bytes.
fn default_fsize(size: u64) -> u32 {
    const MB: u64 = 1 << 20;
    match size {
        _ if size < 20 * MB => 512,
        _ if size < 1000 * MB => 1024,
        _ if size < 128 * 1024 * MB => 2048,
        _ => 4096,
    }
}

impl Plan {
    /// Decides the geometry.
    ///
    /// # Errors
    /// `EINVAL`: sizes that no volume has. `ENOSPC`: the device is too small for one group, or for
    /// UFS1 too large.
    pub fn new(options: Options) -> Result<Plan, Errno> {
        let fsize = options.fsize.unwrap_or(default_fsize(options.size));
        let bsize = options.bsize.unwrap_or((fsize.saturating_mul(8)).max(4096));
        let sizes_fit = (4096..=65536).contains(&bsize)
            && (512..=bsize).contains(&fsize)
            && bsize.is_power_of_two()
            && fsize.is_power_of_two()
            && bsize / fsize <= 8
            && options.minfree <= 99
            && options.density != Some(0);
        if !sizes_fit {
            return Err(Errno::EINVAL);
        }
        let frag = bsize / fsize;
        let sblockloc = match options.format {
            Format::Ufs1 => raw::SBLOCK_UFS1,
            _ => raw::SBLOCK_UFS2,
        };
        let reserved =
            |bytes: u64| (bytes.div_ceil(u64::from(fsize)) as u32).next_multiple_of(frag);
        let sblkno = reserved(sblockloc + raw::SBLOCKSIZE as u64);
        let cblkno = sblkno + reserved(raw::SBLOCKSIZE as u64);
        let maxcontig = (65536 / bsize).max(1);
        let plan = Plan {
            options,
            bsize,
            fsize,
            frag,
            inopb: bsize / options.format.inode_size() as u32,
            sblockloc,
            sblkno,
            cblkno,
            iblkno: cblkno + frag,
            dblkno: 0,
            ipg: 0,
            fpg: 0,
            ncg: 0,
            size: options.size / u64::from(fsize),
            contigsumsize: if maxcontig > 1 { maxcontig.min(16) } else { 0 },
            cgsize: 0,
            cssize: 0,
        };
        plan.with_groups()
    }

    /// Chooses the largest groups whose maps fit into a block, but at least four groups if the
    /// device has room for them.
    fn with_groups(self) -> Result<Plan, Errno> {
        if self.options.format == Format::Ufs1 && self.size > i32::MAX as u64 {
            return Err(Errno::ENOSPC);
        }
        if self.size == 0 {
            return Err(Errno::ENOSPC);
        }
        let step = self.frag.max(8);
        // Each byte of the block is at most eight fragments.
        let most = u64::from(self.bsize) * 8;
        let quarter = (self.size / 4).min(most) as u32;
        let whole = self.size.min(most) as u32;
        let least_of_four = self.iblkno + 4 * self.inopb;
        let mut fpg = if quarter > least_of_four {
            quarter
        } else {
            whole
        };
        fpg = fpg
            .min(self.options.max_fpg.unwrap_or(fpg))
            .next_multiple_of(step);
        loop {
            let plan = self.with_group_size(fpg);
            if plan.cg_needs() <= plan.bsize {
                return plan.with_count();
            }
            fpg = fpg
                .checked_sub(step)
                .filter(|fpg| *fpg > 0)
                .ok_or(Errno::ENOSPC)?;
        }
    }

    fn with_group_size(mut self, fpg: u32) -> Plan {
        let density = self.options.density.unwrap_or(4 * self.fsize);
        let bytes = u64::from(fpg) * u64::from(self.fsize);
        let inodes = (bytes / u64::from(density))
            .max(1)
            .min(u64::from(self.bsize) * 8);
        self.fpg = fpg;
        self.ipg = (inodes as u32).next_multiple_of(self.inopb);
        self.dblkno = self.iblkno + self.ipg / (self.inopb / self.frag);
        self
    }

    /// How many groups there are. A last one without room for data is cut off.
    fn with_count(mut self) -> Result<Plan, Errno> {
        let fpg = u64::from(self.fpg);
        let over = self.size % fpg;
        // Room for one block at least.
        let least = u64::from(self.dblkno + self.frag);
        if self.size > fpg && over != 0 && over < least {
            self.size -= over;
        }
        let ncg = u32::try_from(self.size.div_ceil(fpg)).map_err(|_| Errno::ENOSPC)?;
        self.ncg = ncg;
        self.cgsize = self.cg_needs().next_multiple_of(self.fsize);
        let cssize = u64::from(ncg) * 16;
        self.cssize = (cssize as u32).next_multiple_of(self.fsize);
        let first = fpg.min(self.size);
        let used = u64::from(self.dblkno) + u64::from(self.cssize / self.fsize) + 1;
        if used >= first || cssize > u64::from(self.fpg) * 16 {
            return Err(Errno::ENOSPC);
        }
        if u64::from(ncg) * u64::from(self.ipg) > u64::from(u32::MAX) {
            return Err(Errno::ENOSPC);
        }
        Ok(self)
    }

    fn is_ufs2(&self) -> bool {
        self.options.format.is_ufs2()
    }

    /// `fs_old_cpg`: UFS1 volumes made now have one cylinder a group.
    fn cpg(&self) -> u32 {
        u32::from(!self.is_ufs2())
    }

    /// CGSIZE.
    fn cg_needs(&self) -> u32 {
        let clusters = match self.contigsumsize {
            0 => 0,
            sums => sums * 4 + (self.fpg / self.frag).div_ceil(8),
        };
        raw::CG_HEADER_COUNTED as u32
            + 4
            + self.cpg() * 6
            + self.ipg.div_ceil(8)
            + self.fpg.div_ceil(8)
            + clusters
    }

    fn cgbase(&self, cg: u32) -> u64 {
        u64::from(cg) * u64::from(self.fpg)
    }

    fn byte(&self, fragment: u64) -> u64 {
        fragment * u64::from(self.fsize)
    }

    fn fragments_of(&self, cg: u32) -> u32 {
        (self.size - self.cgbase(cg)).min(u64::from(self.fpg)) as u32
    }

    /// Fragment of the root directory.
    fn root_fragment(&self) -> u32 {
        self.dblkno + self.cssize / self.fsize
    }

    /// Inodes of a group that are initialised now.
    fn initialised(&self) -> u32 {
        match self.is_ufs2() {
            true => self.ipg.min(2 * self.inopb),
            false => self.ipg,
        }
    }

    /// Writes the volume.
    ///
    /// # Errors
    /// Whatever `write` answers.
    pub fn write(&self, write: Writer<'_>) -> Result<(), Errno> {
        match self.options.order {
            Order::Little => Maker::<LE>::new(self).write(write),
            Order::Big => Maker::<BE>::new(self).write(write),
        }
    }
}

#[cfg(test)]
mod tests;
