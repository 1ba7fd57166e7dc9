//! Phase 2: names. Every directory is read, whether it is reached or not; then what is not reached
//! from the root, and what has another number of names than it says. (fsck_ffs, pass2.c to pass4.c.)

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{Check, Finding, State};
use crate::corrupt::{Corrupt, Fault};
use crate::dir::{self, Entry};
use crate::disk::read_in_block;
use crate::inode::Inode;
use crate::raw::{DIRBLKSIZ, IFDIR, UFS_ROOTINO};

/// What is known of a directory.
#[derive(Clone, Copy, Default)]
struct Place {
    /// In which directory its name lies; 0 for none.
    parent: u32,
    /// Where its `..` leads; 0 for nowhere.
    dotdot: u32,
    /// Its first entry is `.` and leads to itself.
    has_dot: bool,
}

impl Check<'_> {
    pub(super) fn check_names(&mut self) -> Result<(), Fault> {
        if self.inodes[UFS_ROOTINO as usize].state != State::Directory {
            self.report.add(Finding::Root);
        }
        let mut places: BTreeMap<u32, Place> = (0..)
            .zip(&self.inodes)
            .filter(|(_, known)| known.state == State::Directory)
            .map(|(ino, _)| (ino, Place::default()))
            .collect();
        if let Some(root) = places.get_mut(&UFS_ROOTINO) {
            root.parent = UFS_ROOTINO;
        }
        let all: Vec<u32> = places.keys().copied().collect();
        for ino in &all {
            self.read_directory(*ino, &mut places)?;
        }
        for (ino, place) in &places {
            if !place.has_dot {
                self.report.add(Finding::Dot { ino: *ino });
            }
            if place.parent != place.dotdot {
                self.report.add(Finding::DotDot {
                    ino: *ino,
                    says: place.dotdot,
                    parent: place.parent,
                });
            }
        }
        self.check_reached(&places);
        self.check_links();
        Ok(())
    }

    fn read_directory(&mut self, ino: u32, places: &mut BTreeMap<u32, Place>) -> Result<(), Fault> {
        // Phase 1 has judged it, and a group that is broken does not hide it.
        let place = self.sb.inode_place(ino)?;
        let at = self.sb.byte_of(place.block);
        let inode = read_in_block(self.disk, at, place.byte, |bytes| {
            Inode::decode(&self.sb, ino, bytes)
        })??;
        let mut from = 0;
        // Each round ends the walk or gets beyond a bad unit.
        while from < inode.size {
            let sb = self.sb.clone();
            let walked = dir::walk(&sb, self.disk, &inode, (from, inode.size), &mut |entry| {
                self.entry(ino, entry, places);
                true
            });
            let bad = match walked {
                Ok(_) => break,
                Err(Fault::Corrupt(corrupt)) => corrupt,
                Err(fault) => return Err(fault),
            };
            self.report.add(Finding::Corrupt(bad));
            let next = |offset: u64, unit: u64| offset - offset % unit + unit;
            from = match bad {
                Corrupt::Entry { offset, .. } => next(offset, DIRBLKSIZ as u64),
                Corrupt::DirectoryHole { offset, .. } => next(offset, u64::from(self.sb.bsize)),
                // Its map is broken: the rest cannot be found.
                _ => break,
            };
        }
        Ok(())
    }

    fn entry(&mut self, ino: u32, entry: &Entry<'_>, places: &mut BTreeMap<u32, Place>) {
        let (target, offset) = (entry.ino, entry.offset);
        // `.` has twelve bytes, so `..` is at the thirteenth.
        match (offset, entry.name) {
            (0, b".") => places.entry(ino).or_default().has_dot = target == ino,
            (12, b"..") => places.entry(ino).or_default().dotdot = target,
            _ => {}
        }
        let known = &mut self.inodes[target as usize];
        if matches!(known.state, State::Free | State::Broken) {
            return self.report.add(Finding::NameOfNothing {
                ino,
                offset,
                target,
            });
        }
        known.names = known.names.saturating_add(1);
        let dtype = match known.state {
            State::File(dtype) => dtype,
            _ => (IFDIR >> 12) as u8,
        };
        let says = entry.vtype.map(|vtype| vtype.dirent_type());
        if says != Some(dtype) && !self.sb.has_old_directories() {
            self.report.add(Finding::NameType {
                ino,
                offset,
                target,
            });
        }
        if known.state != State::Directory || matches!(entry.name, b"." | b"..") {
            return;
        }
        let place = places.entry(target).or_default();
        if place.parent == 0 {
            place.parent = ino;
        } else {
            self.report.add(Finding::SecondName {
                ino,
                offset,
                target,
            });
        }
    }

    /// Every directory whose way up does not end at the root: in a circle, or at one without a name.
    fn check_reached(&mut self, places: &BTreeMap<u32, Place>) {
        let mut reached: BTreeMap<u32, bool> = BTreeMap::from([(UFS_ROOTINO, true)]);
        for ino in places.keys() {
            let mut way = Vec::new();
            let mut at = *ino;
            let outcome = loop {
                if let Some(known) = reached.get(&at) {
                    break *known;
                }
                // Until the way's end is known it counts as lost, which ends a circle.
                reached.insert(at, false);
                way.push(at);
                match places.get(&at) {
                    Some(place) if place.parent != 0 => at = place.parent,
                    _ => break false,
                }
            };
            for step in way {
                reached.insert(step, outcome);
            }
        }
        for (ino, reached) in reached {
            if !reached {
                self.report.add(Finding::Unreached { ino });
            }
        }
    }

    fn check_links(&mut self) {
        for ino in UFS_ROOTINO..self.sb.inodes() {
            let known = self.inodes[ino as usize];
            if matches!(known.state, State::Free | State::Broken) || known.needs_no_name {
                continue;
            }
            let says = u32::from(known.nlink);
            if known.names == 0 {
                self.report.add(Finding::Nameless { ino });
            } else if known.names != says {
                self.report.add(Finding::Links {
                    ino,
                    says,
                    has: known.names,
                });
            }
        }
    }
}
