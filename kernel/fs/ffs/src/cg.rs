//! Cylinder groups: the heads of their blocks and the maps behind them, judged.
//!
//! A reader needs of a group only how many of its inodes were ever written (UFS2); allocation and
//! the checker need the maps, whose places the group itself says.
//!
//! Source: NetBSD sys/ufs/ffs/fs.h (`struct cg`, `struct ocg`, `cg_chkmagic`).

use zerocopy::byteorder::ByteOrder;
use zerocopy::{BE, FromBytes, LE};

use crate::corrupt::{Corrupt, Fault};
use crate::disk::{Metadata, read_in_block};
use crate::order::Order;
use crate::raw::{self, RawCg};
use crate::superblock::Superblock;

/// The head of a group: what does not depend on its maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Inodes of the group that were ever written; the others are free. All of them on UFS1.
    pub initialised_inodes: u32,
}

impl Head {
    /// Reads the head of group `cg`.
    pub fn load(sb: &Superblock, disk: &dyn Metadata, cg: u32) -> Result<Head, Fault> {
        let head = read_in_block(disk, sb.byte_of(sb.cgtod(cg)), 0, |bytes| {
            Head::decode(sb, cg, bytes)
        })?;
        Ok(head?)
    }

    /// Judges the head of group `cg` at the start of `bytes`.
    pub fn decode(sb: &Superblock, cg: u32, bytes: &[u8]) -> Result<Head, Corrupt> {
        match sb.order {
            Order::Little => decode::<LE>(sb, cg, bytes),
            Order::Big => decode::<BE>(sb, cg, bytes),
        }
    }
}

/// Where the maps of every group lie, as newfs(8) and fsck_ffs(8) (pass5.c) compute it: bytes from the start of the group's
/// block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the source's field names")]
pub struct Layout {
    pub old_btotoff: u32,
    pub old_boff: u32,
    pub iusedoff: u32,
    pub freeoff: u32,
    pub nextfreeoff: u32,
    pub clustersumoff: u32,
    pub clusteroff: u32,
}

impl Layout {
    /// That of the volume's groups.
    pub fn of(sb: &Superblock) -> Layout {
        let start = raw::CG_MAPS_OFFSET as u32;
        let (btotoff, boff) = match sb.format.is_ufs2() {
            true => (0, 0),
            false => (start, start + 4 * sb.cpg),
        };
        let iusedoff = match sb.format.is_ufs2() {
            true => start,
            false => boff + 2 * sb.cpg * sb.nrpos,
        };
        let freeoff = iusedoff + sb.ipg.div_ceil(8);
        let behind = freeoff + sb.fpg.div_ceil(8);
        let mut layout = Layout {
            old_btotoff: btotoff,
            old_boff: boff,
            iusedoff,
            freeoff,
            nextfreeoff: behind,
            clustersumoff: 0,
            clusteroff: 0,
        };
        if sb.contigsumsize > 0 {
            // Entry 0 does not exist, and lies over the end of the map before.
            layout.clustersumoff = (behind - 4).next_multiple_of(4);
            layout.clusteroff = layout.clustersumoff + 4 * (sb.contigsumsize + 1);
            layout.nextfreeoff = layout.clusteroff + (sb.fpg / sb.frag).div_ceil(8);
        }
        layout
    }
}

fn decode<O: ByteOrder>(sb: &Superblock, cg: u32, bytes: &[u8]) -> Result<Head, Corrupt> {
    let wrong = |field, value| {
        Err(Corrupt::Group {
            group: cg,
            field,
            value,
        })
    };
    let Ok((raw, _)) = RawCg::<O>::ref_from_prefix(bytes) else {
        return wrong("size", bytes.len() as u64);
    };
    // The old format has nothing here that a reader needs, and its magic elsewhere.
    if sb.old_tables {
        return Ok(Head {
            initialised_inodes: sb.ipg,
        });
    }
    let fragments = sb.cgend(cg) - sb.cgbase(cg);
    for (field, value, right) in [
        ("magic", raw.magic.get(), raw::CG_MAGIC),
        ("cgx", raw.cgx.get(), cg),
        ("ndblk", raw.ndblk.get(), fragments as u32),
    ] {
        if value != right {
            return wrong(field, u64::from(value));
        }
    }
    if !sb.format.is_ufs2() {
        return Ok(Head {
            initialised_inodes: sb.ipg,
        });
    }
    let initialised = raw.initediblk.get();
    if initialised > sb.ipg {
        return wrong("initediblk", u64::from(initialised));
    }
    Ok(Head {
        initialised_inodes: initialised,
    })
}
