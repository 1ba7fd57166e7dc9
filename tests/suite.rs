//! One suite, every host: the cases of `rump-suite` in this Linux process, in the simulator, and on bare metal in QEMU.
//!
//! Each case is a test of its own, by a name that begins with its host: `hosted::ffs2::rename_over_nonempty_directory_is_enotempty`.
//! On the hosts that are other processes all cases run when the first is asked for. What they wrote is checked afterwards:
//! `hosted::afterwards::the_volumes_are_consistent`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use rump::{Config, Kernel};
use rump_suite::{COMPONENTS, Case, DISK, MEMORY, PLACES, all, full_name, line, mounts, prepare};
use rump_tests::guest::Boot;
use rump_tests::image::image;
use rump_tests::scratch;
use rumpfs_ffs::check::check;
use rumpfs_ffs::disk::Metadata;
use rumpfs_ffs::mkfs::{Options, Plan};
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::Format;
use rumpuser::Errno;
use rumpuser_hosted::{Host, RamDisk};
use rumpuser_sim::{SimDisk, Universe};

/// Makes a process the one that plays the suite in the simulator; the value is the seed.
const IN_SIMULATOR: &str = "RUMP_SUITE_SEED";
/// The seed, if nobody says another.
const SEED: &str = "1";
/// Much: the machine may be busy.
const LONG: Duration = Duration::from_secs(900);

/// The name of the case that is none: what is left on the disks.
const AFTERWARDS: &str = "afterwards::the_volumes_are_consistent";

/// An empty volume for each of [`PLACES`]: of both formats and byte orders.
fn volumes() -> Vec<Vec<u8>> {
    let kind = |name: &str| match name {
        "ffs2" => (Format::Ufs2, Order::Little, 8192, 1024),
        _ => (Format::Ufs1, Order::Big, 4096, 512),
    };
    let volume = |(name, ..): &(&str, &str, &str)| {
        let (format, order, bsize, fsize) = kind(name);
        let options = Options {
            order,
            bsize: Some(bsize),
            fsize: Some(fsize),
            ..Options::new(format, DISK)
        };
        let mut bytes = vec![0; DISK as usize];
        let plan = Plan::new(options).expect("the geometry is possible");
        let written = plan.write(&mut |at, part| {
            bytes[at as usize..at as usize + part.len()].copy_from_slice(part);
            Ok(())
        });
        written.expect("memory does not fail");
        bytes
    };
    PLACES.iter().map(volume).collect()
}

/// An image in memory, as the checker reads it.
struct Image(Vec<u8>);

impl Metadata for Image {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
        visit(self.0.get(start..end).ok_or(Errno::EINVAL)?);
        Ok(())
    }
}

/// What is wrong with volumes that were unmounted; nothing, if all is well.
fn findings(volumes: impl IntoIterator<Item = Vec<u8>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for ((name, ..), bytes) in PLACES.iter().zip(volumes) {
        match check(&Image(bytes)) {
            Ok(report) => wrong.extend(report.findings.iter().map(|one| format!("{name}: {one}"))),
            Err(fault) => wrong.push(format!("{name}: {fault:?}")),
        }
    }
    wrong
}

fn config() -> Config {
    Config {
        mounts: mounts(),
        loglevel: log::LevelFilter::Warn,
        ..Config::default()
    }
}

/// A kernel with everything mounted. The host is there.
fn boot() -> Arc<Kernel> {
    let kernel = Kernel::boot(config(), COMPONENTS).expect("a kernel");
    let process = kernel.attach("suite").expect("a process");
    prepare(&kernel).expect("everything is mounted");
    drop(process);
    kernel
}

/// In this process.
mod hosted {
    use super::*;

    static DISKS: OnceLock<Vec<&'static RamDisk>> = OnceLock::new();

    /// The kernel, and the turns of those who use it: a case may count what is free.
    static KERNEL: LazyLock<Mutex<Arc<Kernel>>> = LazyLock::new(|| {
        let disks: Vec<_> = volumes().into_iter().map(RamDisk::new).collect();
        let mut host = Host::builder().memory(MEMORY);
        for disk in &disks {
            host = host.block_device(*disk);
        }
        host.install().expect("the only host of the process");
        assert!(DISKS.set(disks).is_ok(), "made once");
        Mutex::new(boot())
    });

    pub fn run(of: &str, case: &Case) -> Result<(), Failed> {
        let kernel = KERNEL.lock().unwrap_or_else(|broken| broken.into_inner());
        rump_suite::run(&kernel, of, case).map_err(Failed::from)
    }

    /// Unmounts, and checks what is left.
    pub fn end() -> Vec<String> {
        let kernel = KERNEL.lock().unwrap_or_else(|broken| broken.into_inner());
        kernel.shutdown();
        let disks = DISKS.get().expect("they were made with the kernel");
        findings(disks.iter().map(|disk| disk.contents()))
    }
}

/// What a process that played everything said of each case, by its name without the host's.
struct Said {
    lines: BTreeMap<String, String>,
    everything: String,
}

impl Said {
    /// Reads the lines that [`line`] makes, wherever they begin.
    fn of(text: String) -> Said {
        let mut lines = BTreeMap::new();
        for line in text.lines() {
            let Some((_, said)) = line.split_once("suite: ") else {
                continue;
            };
            if let Some((name, outcome)) = said.split_once(": ") {
                lines.insert(name.to_owned(), outcome.trim().to_owned());
            }
        }
        Said {
            lines,
            everything: text,
        }
    }

    fn judge(&self, name: &str) -> Result<(), Failed> {
        match self.lines.get(name).map(String::as_str) {
            Some("ok") => Ok(()),
            Some(why) => Err(why.into()),
            None => Err(format!("nothing was said of it:\n{}", self.everything).into()),
        }
    }
}

/// In the simulator, in a process of its own: a universe is a process.
fn simulated() -> &'static Said {
    static SAID: OnceLock<Said> = OnceLock::new();
    SAID.get_or_init(|| {
        let seed = std::env::var("SEED").unwrap_or(SEED.into());
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        let done = command.env(IN_SIMULATOR, &seed).output().expect("it runs");
        let parts = [done.stdout, done.stderr].concat();
        Said::of(format!("SEED={seed}\n{}", String::from_utf8_lossy(&parts)))
    })
}

/// Plays everything in the simulator, and prints what came of it.
fn play_in_simulator(seed: u64) {
    Universe::run(seed, MEMORY, None, |universe| {
        let mut disks = Vec::new();
        for ((_, device, _), bytes) in PLACES.iter().zip(volumes()) {
            let disk = SimDisk::new(device, bytes, true);
            universe.here().add_disk(disk);
            disks.push(disk);
        }
        let kernel = boot();
        rump_suite::play(&kernel, &mut |of, case, outcome| {
            println!("{}", line(of, case, &outcome));
        });
        kernel.shutdown();
        print_findings(findings(disks.iter().map(|disk| disk.contents())));
    });
}

/// Prints the line of the case that is none.
fn print_findings(wrong: Vec<String>) {
    let outcome = match wrong.is_empty() {
        true => String::from("ok"),
        false => format!("FAILED: {}", wrong.join("; ")),
    };
    println!("suite: {AFTERWARDS}: {outcome}");
}

/// On bare metal.
fn baremetal() -> &'static Said {
    static SAID: OnceLock<Said> = OnceLock::new();
    SAID.get_or_init(|| {
        let folder = tempfile::tempdir_in(scratch("suite")).expect("a folder under target");
        let mut guest = Boot::new(image("suite"))
            .memory("32")
            .without_network()
            .keeping_writes()
            .limit(LONG);
        let mut files: Vec<PathBuf> = Vec::new();
        for ((name, ..), bytes) in PLACES.iter().zip(volumes()) {
            let file = folder.path().join(name);
            std::fs::write(&file, bytes).expect("a file under target");
            guest = guest.disk(&file);
            files.push(file);
        }
        let mut guest = guest.start();
        let status = guest.exit_status(LONG);
        let wrong = findings(
            files
                .iter()
                .map(|file| std::fs::read(file).expect("the disk")),
        );
        let afterwards = match (status, wrong.is_empty()) {
            (0, true) => String::from("ok"),
            _ => format!("FAILED: exit status {status}; {}", wrong.join("; ")),
        };
        Said::of(format!(
            "{}\nsuite: {AFTERWARDS}: {afterwards}\n",
            guest.console()
        ))
    })
}

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (of, case) in all() {
        let run = move || hosted::run(of, &case);
        trials.push(Trial::test(full_name("hosted", of, &case), run));
        let name = format!("{of}::{}", case.name);
        let in_simulator = name.clone();
        let run = move || simulated().judge(&in_simulator);
        trials.push(Trial::test(full_name("sim", of, &case), run));
        let run = move || baremetal().judge(&name);
        trials.push(Trial::test(full_name("baremetal", of, &case), run));
    }
    for (host, said) in [("sim", simulated as fn() -> _), ("baremetal", baremetal)] {
        let run = move || said().judge(AFTERWARDS);
        trials.push(Trial::test(format!("{host}::{AFTERWARDS}"), run));
    }
    trials
}

fn main() -> ExitCode {
    if let Ok(seed) = std::env::var(IN_SIMULATOR) {
        play_in_simulator(seed.parse().expect("a seed"));
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_args();
    let conclusion = libtest_mimic::run(&arguments, trials());
    if arguments.list || conclusion.has_failed() {
        return conclusion.exit_code();
    }
    // The kernel of this process is unmounted last, when no case needs it any more.
    let wrong = hosted::end();
    if !wrong.is_empty() {
        eprintln!("hosted::{AFTERWARDS}: FAILED: {}", wrong.join("; "));
        return ExitCode::from(101);
    }
    println!("hosted::{AFTERWARDS}: ok");
    ExitCode::SUCCESS
}
