//! One seed, one universe: the same seed gives the same trace to the byte, and another seed another.

use rump::fs::{self, OpenOptions};
use rump::{Component, Config, Kernel, MountSpec};
use rumpfs_ffs::mkfs::{Options, Plan};
use rumpfs_ffs::superblock::Format;
use rumpuser_sim::sweep::Sweep;
use rumpuser_sim::{SimDisk, Universe, sweep};
use std::time::Duration;

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

fn volume(bytes: usize) -> Vec<u8> {
    let mut image = vec![0; bytes];
    let plan = Plan::new(Options::new(Format::Ufs2, bytes as u64)).expect("a plan");
    plan.write(&mut |at, part| {
        image[at as usize..at as usize + part.len()].copy_from_slice(part);
        Ok(())
    })
    .expect("memory takes it");
    image
}

/// Boots a kernel on a disk, writes files from several threads, syncs them, shuts down.
fn a_kernel_works(universe: &Universe) {
    universe
        .here()
        .add_disk(SimDisk::new("ld0", volume(4 << 20), true));
    let config = Config {
        mounts: vec![MountSpec::root()],
        ..Config::default()
    };
    let kernel = Kernel::boot(config, COMPONENTS).expect("a kernel");
    let process = kernel.attach("main").expect("a process");
    assert_eq!(fs::mount_configured(), Ok(1));
    let writers: Vec<_> = (0..4u8)
        .map(|number| {
            rump::thread::spawn("writer", move || {
                let options = OpenOptions::new().read(true).write(true).create(true);
                let file = options.open(format!("/file{number}")).expect("made");
                file.write(&vec![number; 30_000]).expect("written");
                file.sync_all().expect("synced");
            })
            .expect("a thread")
        })
        .collect();
    for writer in writers {
        writer.join();
    }
    for number in 0..4u8 {
        let bytes = fs::read(format!("/file{number}")).expect("read");
        assert_eq!(bytes, vec![number; 30_000]);
    }
    universe.sleep(Duration::from_secs(100));
    drop(process);
    kernel.shutdown();
}

#[test]
fn a_kernel_boots_and_writes_files() {
    sweep!(a_kernel_boots_and_writes_files, 10, a_kernel_works);
}

#[test]
fn a_seed_repeats_its_trace_to_the_byte_and_another_seed_does_not() {
    let sweep = Sweep {
        package: env!("CARGO_PKG_NAME"),
        target: env!("CARGO_CRATE_NAME"),
        test: "a_kernel_boots_and_writes_files",
        seeds: 0,
        regressions: &[],
        memory: 32 << 20,
    };
    let folder = std::env::temp_dir().join(format!("rump-sim-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut traces = Vec::new();
    for (number, seed) in [5, 5, 6, 6].into_iter().enumerate() {
        let path = folder.join(format!("{number}"));
        // Another environment is another place for the stack, as another path's length is.
        let (output, summary) = sweep.in_process(seed, Some(&path));
        let said = String::from_utf8_lossy(&output.stderr);
        let summary = summary.unwrap_or_else(|| panic!("seed {seed}: {said}"));
        traces.push((std::fs::read(&path).expect("a trace"), summary));
    }
    std::fs::remove_dir_all(&folder).expect("removed");
    assert!(traces[0].0.len() > 10_000);
    assert!(traces[0] == traces[1] && traces[2] == traces[3]);
    assert!(traces[0].0 != traces[2].0 && traces[0].1.trace != traces[2].1.trace);
}
