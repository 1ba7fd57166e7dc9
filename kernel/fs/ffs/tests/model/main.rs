//! Random operations against a model in memory, within a tiny budget: contents, names, attributes and counts agree,
//! and the volume is consistent all the time.
//!
//! - `world.rs`: what the model has, and comparing the volume with it;
//! - `bytes.rs`: what changes the contents of files, by name or by an open file;
//! - `names.rs`: what makes, moves and removes names.
//!
//! `FFS_MODEL_STEPS` and `FFS_MODEL_SEED` say how long on each kind of volume, and from which seed on;
//! `FFS_MODEL_MEMORY` is the limit of memory in KiB, `FFS_MODEL_MOUNT` the options of all mounts.

mod bytes;
mod names;
#[path = "../rig/mod.rs"]
mod rig;
mod world;

use std::env;

use rig::{assert_consistent, attach, kinds, options};
use rumpfs_ffs::check::Finding;
use rumpfs_ffs::mkfs::Options;
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::Format;
use rumpuser::Errno;
use world::{DIRS, Model, Open};

/// The least that the file server is said to live in.
const MEMORY_KIB: u64 = 512;

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

fn memory() -> usize {
    number("FFS_MODEL_MEMORY", MEMORY_KIB) as usize * 1024
}

/// How volume `n` is mounted.
fn mount(n: usize) -> &'static str {
    match env::var("FFS_MODEL_MOUNT") {
        Ok(options) => options.leak(),
        Err(_) => ["", "discard"][n % 2],
    }
}

impl Model {
    fn path(&mut self) -> String {
        let dir = DIRS[self.random.below(4) as usize];
        let length = if self.random.below(8) == 0 { 200 } else { 1 };
        let number = self.random.below(10);
        format!("{dir}/{}{number}", "n".repeat(length))
    }

    fn directory(&mut self) -> String {
        DIRS[1 + self.random.below(3) as usize].to_owned()
    }

    fn step(&mut self) {
        let (path, other) = (self.path(), self.path());
        match self.random.below(64) {
            0..6 => self.create(&path),
            6..15 => self.write(&path),
            15..21 => self.write_open(),
            21..24 => self.truncate(&path),
            24 | 25 => self.truncate_open(),
            26 | 27 => self.truncate_at_open(&path),
            28..32 => self.compare(&path),
            32..37 => self.read_open(),
            37..40 => self.unlink(&path),
            40 | 41 => self.link(&path, &other),
            42 => self.symlink(&path),
            43 | 44 => {
                let dir = self.directory();
                self.mkdir(&dir);
            }
            45 => {
                let dir = self.directory();
                self.rmdir(&dir);
            }
            46 => {
                let (dir, to) = (self.directory(), self.directory());
                self.rename(&dir, &to);
            }
            47..51 => self.rename(&path, &other),
            51..54 => self.open(&path),
            54..56 => self.close(),
            56 | 57 => self.chmod(&path),
            58 => self.fsync(&path),
            59 => self.fsync_open(),
            60 => self.node(&path),
            61 if self.random.below(40) == 0 => self.remount(),
            _ => self.list(),
        }
        self.keep_small();
    }

    fn run(&mut self, steps: u64) {
        for step in 0..steps {
            self.at = step;
            self.step();
            if step % 400 == 399 {
                self.check();
            }
            if step % 1500 == 1499 {
                self.mount_anew();
            }
        }
        self.compare_all();
        self.close_all();
        self.rig.take().expect("mounted").finish(&self.what);
    }

    /// Nothing is wrong but what has no name and is open.
    fn check(&self) {
        let nameless = |open: &&Open| self.links(open.number) == 0;
        let mut nameless: Vec<u64> = self
            .open
            .iter()
            .filter(nameless)
            .map(|o| o.number)
            .collect();
        nameless.sort_unstable();
        nameless.dedup();
        let mut report = self.rig().check_mounted();
        let mut found = 0;
        report.findings.retain(|finding| {
            let expected = matches!(finding, Finding::Nameless { .. });
            found += usize::from(expected);
            !expected
        });
        let what = format!("after step {} of {}", self.at, self.what);
        // A log says itself which they are.
        let keeps_log = self.mount.starts_with("log");
        let expected = if keeps_log { 0 } else { nameless.len() };
        assert_eq!(found, expected, "files without a name, {what}");
        assert_consistent(&report, &what);
    }

    /// Unmounts, which open files prevent, and mounts again.
    fn mount_anew(&mut self) {
        if !self.open.is_empty() {
            let mount = self.rig().vfs.mounts()[0].clone();
            let refused = self.rig().vfs.unmount(&mount);
            assert_eq!(refused, Err(Errno::EBUSY), "{}", self.what);
            self.compare_all();
        }
        self.close_all();
        let bytes = self.rig.take().expect("mounted").finish(&self.what);
        self.rig = Some(Model::mounted(bytes, self.mount, self.direct));
        self.compare_all();
    }
}

#[test]
fn random_operations_on_each_kind_of_volume_leave_what_the_model_has() {
    let _lwp = attach(memory());
    on_each_kind(mount);
}

#[test]
fn with_a_log_they_do_as_well() {
    let _lwp = attach(memory());
    on_each_kind(|n| ["log", "log,discard"][n % 2]);
}

fn on_each_kind(mount: impl Fn(usize) -> &'static str) {
    let seed = number("FFS_MODEL_SEED", 1);
    let steps = number("FFS_MODEL_STEPS", 1600);
    for (n, options) in kinds().into_iter().enumerate() {
        let seed = seed + n as u64;
        println!("seed {seed}, {steps} steps");
        Model::new(options, mount(n), seed, false).run(steps);
    }
}

/// Volumes of a size that the operations fill all the time.
fn tight() -> [Options; 3] {
    [
        options(Format::Ufs1, Order::Little, 4096, 8, 110),
        options(Format::Ufs2, Order::Big, 8192, 8, 90),
        options(Format::Ufs2, Order::Little, 4096, 1, 130),
    ]
}

#[test]
fn on_a_volume_that_is_full_all_the_time_what_fails_changes_nothing() {
    let _lwp = attach(memory());
    let seed = number("FFS_MODEL_SEED", 1);
    let steps = number("FFS_MODEL_STEPS", 1600);
    for (n, options) in tight().into_iter().enumerate() {
        let seed = 100 + seed + n as u64;
        println!("seed {seed}, {steps} steps, full");
        let mut model = Model::new(options, mount(n), seed, true);
        model.run(steps);
        println!("{} times no space", model.refused);
        assert!(
            steps < 1000 || model.refused > steps / 400,
            "the volume was not full"
        );
    }
}
