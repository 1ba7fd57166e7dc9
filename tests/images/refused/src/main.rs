//! Works on its first disk again and again, and each time another allocation is refused, of whatever it is for: pages for contents of
//! files, buffers, or slabs, which on this host everything comes from that the kernel keeps; or what may be refused of the latter.
//! Whoever asked may be told `ENOMEM`; nothing else may come of it, and what was written is as it should be. Ends when a number of
//! rounds needed fewer allocations than were let through.
//!
//! The work itself allocates nothing but through the kernel's calls.
#![no_std]
#![no_main]

use rump::fs::{self, File, OpenOptions};
use rump::{Component, Config, Errno, Kernel, sys};
use rumpkern::kmem::Kmem;
use rumpkern::{aprint, uvm};

rumpuser_baremetal::entry!(main);

#[global_allocator]
static KMEM: Kmem = Kmem;

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

/// Bytes of the file: beyond its direct blocks.
const SIZE: usize = 150_000;
const PIECE: usize = 10_000;
/// So many rounds without a refusal are enough.
const CALM: u32 = 12;
/// The most rounds.
const MOST: u64 = 2000;

const ALL: [&str; 5] = ["/d/link", "/d/symlink", "/d/b", "/d/a", "/d/sub"];

fn main() -> Result<(), Errno> {
    let mut config = Config::from_host();
    config.mounts = config.mounts_or_root();
    let kernel = Kernel::boot(config, COMPONENTS)?;
    let process = kernel.attach("refused")?;
    fs::mount_configured()?;
    let (mut refusals, mut calm) = (0, 0);
    for allocation in 1..=MOST {
        let mut round = Round::default();
        uvm::fail_after(allocation);
        round.work();
        let was_refused = uvm::fail_after(0) == 0;
        round.judge(allocation)?;
        refusals += round.refused;
        calm = if was_refused { 0 } else { calm + 1 };
        if calm == CALM {
            aprint!("refused: {allocation} rounds, {refusals} refusals");
            break;
        }
    }
    drop(process);
    kernel.halt(u8::from(calm < CALM))
}

/// What came of a round.
#[derive(Default)]
struct Round {
    /// Calls that were refused memory.
    refused: u32,
    /// An error that nothing explains.
    wrong: Option<(&'static str, Errno)>,
    /// Bytes of the file that were written.
    written: usize,
    /// How many it was to be cut to, and that was refused: it may be done all the same, for what frees the blocks comes last.
    refused_cut: Option<usize>,
}

impl Round {
    fn work(&mut self) {
        self.note("mkdir", fs::create_dir("/d"));
        if let Some(file) = self.note("create", File::create("/d/a")) {
            let mut bytes = [0; PIECE];
            while self.written < SIZE {
                fill(&mut bytes, self.written);
                let Some(count) = self.note("write", file.write(&bytes)) else {
                    break;
                };
                self.written += count;
            }
            self.note("fsync", file.sync_all());
        }
        self.note("link", sys::link(b"/d/a", b"/d/link"));
        self.note("symlink", fs::symlink("b", "/d/symlink"));
        self.note("rename", fs::rename("/d/a", "/d/b"));
        self.note("mkdir", fs::create_dir("/d/sub"));
        if let Some(entries) = self.note("opendir", fs::read_dir("/d")) {
            for entry in entries {
                if self.note("readdir", entry).is_none() {
                    break;
                }
            }
        }
        self.note("stat", fs::metadata("/d/symlink"));
        if let Some(file) = self.note("open", OpenOptions::new().write(true).open("/d/link")) {
            let shorter = self.written.min(SIZE / 2);
            match self.note("truncate", file.set_len(shorter as u64)) {
                Some(()) => self.written = shorter,
                None => self.refused_cut = Some(shorter),
            }
        }
        self.note("unlink", fs::remove_file("/d/symlink"));
    }

    /// Notes how a call went. After a refusal there may be things that are not there.
    fn note<T>(&mut self, call: &'static str, result: Result<T, Errno>) -> Option<T> {
        match result {
            Ok(value) => return Some(value),
            Err(Errno::ENOMEM) => self.refused += 1,
            Err(Errno::ENOENT) if self.refused > 0 => {}
            Err(errno) => self.wrong = self.wrong.or(Some((call, errno))),
        }
        None
    }

    /// With memory again: compares the file, and removes everything.
    fn judge(&self, allocation: u64) -> Result<(), Errno> {
        if let Some((call, errno)) = self.wrong {
            aprint!("refused: {call}: {errno}, after {allocation} allocations");
            return Err(errno);
        }
        for name in ["/d/a", "/d/b", "/d/link"] {
            let file = match File::open(name) {
                Err(Errno::ENOENT) => continue,
                opened => opened?,
            };
            let size = file.metadata()?.len() as usize;
            let (mut at, mut bytes, mut expected) = (0, [0; PIECE], [0; PIECE]);
            loop {
                let count = file.read(&mut bytes)?;
                if count == 0 {
                    break;
                }
                fill(&mut expected, at);
                if bytes[..count] != expected[..count] {
                    aprint!(
                        "refused: {name} is wrong from byte {at} on, after {allocation} allocations"
                    );
                    return Err(Errno::EIO);
                }
                at += count;
            }
            let is_cut = self.refused_cut == Some(size);
            if !(size == self.written || is_cut) || at != size {
                aprint!(
                    "refused: {name}: {at} of {size} bytes, {} were written, after {allocation} allocations",
                    self.written
                );
                return Err(Errno::EIO);
            }
        }
        for name in ALL {
            let gone = match name {
                "/d/sub" => fs::remove_dir(name),
                _ => fs::remove_file(name),
            };
            gone.or_else(absent)?;
        }
        fs::remove_dir("/d").or_else(absent)
    }
}

fn absent(errno: Errno) -> Result<(), Errno> {
    match errno {
        Errno::ENOENT => Ok(()),
        _ => Err(errno),
    }
}

/// The bytes of the file from `at` on.
fn fill(bytes: &mut [u8], at: usize) {
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = ((at + place) / 7) as u8;
    }
}
