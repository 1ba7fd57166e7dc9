//! A vnode's pages by index: a radix tree that never allocates.
//!
//! It is changed under a lock that I/O completions take, so nothing may wait for memory there. So new
//! levels come from [`Spare`], which the caller fills beforehand, without the lock.
//!
//! A leaf holds 16 pages (64 KiB of file, one write-back cluster), an inner level 32 children. A file
//! of up to 64 KiB is a single leaf. Each page has a tag (dirty); inner levels know which child has
//! tagged pages, so that looking for the next dirty page skips what is clean.

use alloc::boxed::Box;
use alloc::vec::Vec;
use rumpkern::kmem::{self, Room};
use rumpuser::Errno;

const LEAF_BITS: u32 = 4;
const LEAF: usize = 1 << LEAF_BITS;
const NODE_BITS: u32 = 5;
const NODE: usize = 1 << NODE_BITS;
/// Inner levels that the largest page index (a 64-bit byte offset) needs.
const MAX_HEIGHT: u32 = (52 - LEAF_BITS).div_ceil(NODE_BITS);

#[allow(
    clippy::large_enum_variant,
    reason = "with a page of 16 bytes both are of one size"
)]
enum Level<P> {
    Leaf {
        slots: [Option<P>; LEAF],
        tags: u32,
    },
    Node {
        kids: [Option<Box<Level<P>>>; NODE],
        tags: u32,
    },
}

impl<P> Level<P> {
    fn empty_leaf() -> Level<P> {
        Level::Leaf {
            slots: [const { None }; LEAF],
            tags: 0,
        }
    }

    fn empty_node() -> Level<P> {
        Level::Node {
            kids: [const { None }; NODE],
            tags: 0,
        }
    }

    fn tagged(&self) -> bool {
        match self {
            Level::Leaf { tags, .. } | Level::Node { tags, .. } => *tags != 0,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Level::Leaf { slots, .. } => slots.iter().all(Option::is_none),
            Level::Node { kids, .. } => kids.iter().all(Option::is_none),
        }
    }
}

/// Levels for insertions to come, allocated where waiting is allowed.
pub(super) struct Spare<P>(Vec<Box<Level<P>>>);

impl<P> Spare<P> {
    /// None yet.
    pub(super) const fn new() -> Spare<P> {
        Spare(Vec::new())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Sees to it that there are `count`.
    pub(super) fn fill(&mut self, count: usize) -> Result<(), Errno> {
        let missing = count.saturating_sub(self.0.len());
        self.0.room(missing)?;
        for _ in 0..missing {
            self.0.push(kmem::try_box(Level::empty_leaf())?);
        }
        Ok(())
    }
}

/// Pages by index.
pub(super) struct Tree<P> {
    root: Option<Box<Level<P>>>,
    /// Inner levels above the leaves.
    height: u32,
    len: usize,
}

/// Where `index` goes at an inner level `height` levels above the leaves.
fn kid_at(index: u64, height: u32) -> usize {
    (index >> (LEAF_BITS + NODE_BITS * (height - 1))) as usize & (NODE - 1)
}

fn slot_at(index: u64) -> usize {
    index as usize & (LEAF - 1)
}

fn height_for(index: u64) -> u32 {
    let mut height = 0;
    while height < MAX_HEIGHT && index >> (LEAF_BITS + NODE_BITS * height) != 0 {
        height += 1;
    }
    height
}

impl<P> Tree<P> {
    /// No pages.
    pub(super) const fn new() -> Tree<P> {
        Tree {
            root: None,
            height: 0,
            len: 0,
        }
    }

    /// How many pages there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn reaches(&self, index: u64) -> bool {
        height_for(index) <= self.height
    }

    fn leaf(&self, index: u64) -> Option<&[Option<P>; LEAF]> {
        if !self.reaches(index) {
            return None;
        }
        let mut level = self.root.as_deref()?;
        let mut height = self.height;
        loop {
            match level {
                Level::Leaf { slots, .. } => return Some(slots),
                Level::Node { kids, .. } => level = kids[kid_at(index, height)].as_deref()?,
            }
            height -= 1;
        }
    }

    /// The page at `index`.
    pub(super) fn get(&self, index: u64) -> Option<&P> {
        self.leaf(index)?[slot_at(index)].as_ref()
    }

    /// The page at `index`, to be changed.
    pub(super) fn get_mut(&mut self, index: u64) -> Option<&mut P> {
        if !self.reaches(index) {
            return None;
        }
        let mut level = self.root.as_deref_mut()?;
        let mut height = self.height;
        loop {
            match level {
                Level::Leaf { slots, .. } => return slots[slot_at(index)].as_mut(),
                Level::Node { kids, .. } => level = kids[kid_at(index, height)].as_deref_mut()?,
            }
            height -= 1;
        }
    }

    /// The most levels that inserting the `count` pages from `first` on may take.
    pub(super) fn levels_for(&self, first: u64, count: u64) -> usize {
        let last = first + count.saturating_sub(1);
        let height = self.height.max(height_for(last));
        let growth = height - if self.root.is_some() { self.height } else { 0 };
        let mut levels = growth as usize;
        for leaf in (first >> LEAF_BITS)..=(last >> LEAF_BITS) {
            if self.leaf(leaf << LEAF_BITS).is_none() {
                levels += 1 + height as usize;
            }
        }
        levels
    }

    /// Inserts a page where there is none. Gives it back if `spare` is too small.
    pub(super) fn insert(&mut self, index: u64, page: P, spare: &mut Spare<P>) -> Result<(), P> {
        let wanted = height_for(index);
        if self.root.is_none() {
            self.height = wanted;
        }
        while self.height < wanted {
            let Some(mut top) = spare.0.pop() else {
                return Err(page);
            };
            *top = Level::empty_node();
            if let (Level::Node { kids, tags }, Some(old)) = (&mut *top, self.root.take()) {
                *tags = u32::from(old.tagged());
                kids[0] = Some(old);
            }
            self.root = Some(top);
            self.height += 1;
        }
        let mut place = &mut self.root;
        let mut height = self.height;
        loop {
            if place.is_none() {
                let Some(mut level) = spare.0.pop() else {
                    // Levels that were put in on the way are empty; the next insertion finds them.
                    return Err(page);
                };
                *level = if height == 0 {
                    Level::empty_leaf()
                } else {
                    Level::empty_node()
                };
                *place = Some(level);
            }
            match place.as_deref_mut() {
                Some(Level::Leaf { slots, .. }) => {
                    slots[slot_at(index)] = Some(page);
                    self.len += 1;
                    return Ok(());
                }
                Some(Level::Node { kids, .. }) => place = &mut kids[kid_at(index, height)],
                None => return Err(page),
            }
            height -= 1;
        }
    }

    /// Takes out the page at `index`, with its tag, and the levels that are empty then.
    pub(super) fn remove(&mut self, index: u64) -> Option<P> {
        fn go<P>(place: &mut Option<Box<Level<P>>>, index: u64, height: u32) -> Option<P> {
            let level = place.as_deref_mut()?;
            let page = match level {
                Level::Leaf { slots, tags } => {
                    *tags &= !(1 << slot_at(index));
                    slots[slot_at(index)].take()
                }
                Level::Node { kids, tags } => {
                    let at = kid_at(index, height);
                    let page = go(&mut kids[at], index, height - 1);
                    set_bit(tags, at, kids[at].as_ref().is_some_and(|kid| kid.tagged()));
                    page
                }
            };
            if level.is_empty() {
                *place = None;
            }
            page
        }
        if !self.reaches(index) {
            return None;
        }
        let page = go(&mut self.root, index, self.height);
        self.len -= usize::from(page.is_some());
        page
    }

    /// Sets or clears the tag of the page at `index`, if there is one.
    pub(super) fn tag(&mut self, index: u64, on: bool) {
        fn go<P>(level: &mut Level<P>, index: u64, height: u32, on: bool) {
            match level {
                Level::Leaf { slots, tags } => {
                    let at = slot_at(index);
                    set_bit(tags, at, on && slots[at].is_some());
                }
                Level::Node { kids, tags } => {
                    let at = kid_at(index, height);
                    if let Some(kid) = kids[at].as_deref_mut() {
                        go(kid, index, height - 1, on);
                        set_bit(tags, at, kid.tagged());
                    }
                }
            }
        }
        if self.reaches(index)
            && let Some(root) = self.root.as_deref_mut()
        {
            go(root, index, self.height, on);
        }
    }

    /// The first index from `from` on that has a page (a tagged one, if `tagged`).
    pub(super) fn next(&self, from: u64, tagged: bool) -> Option<u64> {
        fn go<P>(level: &Level<P>, base: u64, from: u64, height: u32, tagged: bool) -> Option<u64> {
            let skip = from.saturating_sub(base);
            match level {
                Level::Leaf { slots, tags } => {
                    let skip = skip.min(LEAF as u64) as usize;
                    let at = if tagged {
                        let rest = tags & u32::MAX.checked_shl(skip as u32).unwrap_or(0);
                        (rest != 0).then(|| rest.trailing_zeros() as usize)
                    } else {
                        (skip..LEAF).find(|&at| slots[at].is_some())
                    };
                    at.map(|at| base + at as u64)
                }
                Level::Node { kids, tags } => {
                    let bits = LEAF_BITS + NODE_BITS * (height - 1);
                    let first = (skip >> bits).min(NODE as u64) as usize;
                    (first..NODE).find_map(|at| {
                        if tagged && tags & (1 << at) == 0 {
                            return None;
                        }
                        let kid = kids[at].as_deref()?;
                        go(kid, base + ((at as u64) << bits), from, height - 1, tagged)
                    })
                }
            }
        }
        if !self.reaches(from) {
            return None;
        }
        go(self.root.as_deref()?, 0, from, self.height, tagged)
    }
}

fn set_bit(bits: &mut u32, at: usize, on: bool) {
    if on {
        *bits |= 1 << at;
    } else {
        *bits &= !(1 << at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u64),
        Remove(u64),
        Tag(u64, bool),
        Next(u64, bool),
    }

    fn index() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..40, 0u64..3000, (0u64..52).prop_map(|bit| 1 << bit)]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => index().prop_map(Op::Insert),
            2 => index().prop_map(Op::Remove),
            2 => (index(), any::<bool>()).prop_map(|(at, on)| Op::Tag(at, on)),
            2 => (index(), any::<bool>()).prop_map(|(at, on)| Op::Next(at, on)),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_an_ordered_map_with_tags(ops in proptest::collection::vec(op(), 1..200)) {
            let mut tree = Tree::new();
            let mut model: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
            for (number, op) in ops.iter().enumerate() {
                match *op {
                    Op::Insert(at) if model.contains_key(&at) => {
                        prop_assert_eq!(tree.get(at), Some(&model[&at].0));
                    }
                    Op::Insert(at) => {
                        let mut spare = Spare::new();
                        spare.fill(tree.levels_for(at, 1)).unwrap();
                        prop_assert!(tree.insert(at, number as u64, &mut spare).is_ok());
                        model.insert(at, (number as u64, false));
                    }
                    Op::Remove(at) => {
                        prop_assert_eq!(tree.remove(at), model.remove(&at).map(|page| page.0));
                    }
                    Op::Tag(at, on) => {
                        tree.tag(at, on);
                        if let Some(page) = model.get_mut(&at) {
                            page.1 = on;
                        }
                    }
                    Op::Next(at, tagged) => {
                        let expected = model.range(at..).find(|(_, page)| !tagged || page.1);
                        prop_assert_eq!(tree.next(at, tagged), expected.map(|(at, _)| *at));
                    }
                }
                prop_assert_eq!(tree.len(), model.len());
            }
            for at in model.keys() {
                prop_assert_eq!(tree.remove(*at), Some(model[at].0));
            }
            prop_assert!(tree.root.is_none(), "levels are left in an empty tree");
        }
    }

    #[test]
    fn insertion_without_spare_levels_gives_the_page_back_and_harms_nothing() {
        let mut tree = Tree::new();
        let mut spare = Spare::new();
        assert_eq!(tree.insert(5, 'a', &mut spare), Err('a'));
        spare.fill(1).unwrap();
        assert_eq!(tree.insert(5, 'a', &mut spare), Ok(()));
        assert_eq!(tree.insert(500, 'b', &mut spare), Err('b'));
        assert_eq!(tree.get(5), Some(&'a'));
        assert_eq!(tree.get(500), None);
        assert_eq!(tree.next(0, false), Some(5));
        spare.fill(tree.levels_for(500, 1)).unwrap();
        assert_eq!(tree.insert(500, 'b', &mut spare), Ok(()));
        assert_eq!(tree.next(6, false), Some(500));
    }
}
