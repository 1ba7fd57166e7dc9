//! `rump_ffs`: mounts an image with a Berkeley fast file system (NetBSD rump_ffs(8)).
#![forbid(unsafe_code)]

use clap::Parser;
use log::{Log, Metadata, Record};
use p2k::MountArgs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use ukfs::{Options, Shown};

/// Mount an image with a Berkeley fast file system, by FUSE.
///
/// The program goes to the background once the mount is there, and ends when it is unmounted, by umount(8) or a signal.
#[derive(Debug, Parser)]
#[command(name = "rump_ffs", version, max_term_width = 100)]
struct Cli {
    /// Mount with the journal
    #[arg(long)]
    log: bool,
    /// Refuse every change
    #[arg(long)]
    readonly: bool,
    /// The kernel's budget of memory, in bytes
    #[arg(long, value_name = "BYTES")]
    memlimit: Option<usize>,
    #[command(flatten)]
    mount: MountArgs,
}

/// The kernel's errors on standard error.
struct KernelLog;

impl Log for KernelLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && !p2k::is_chatter(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = record.args().to_string();
            // A line that cannot be shown is lost.
            let _ = writeln!(std::io::stderr(), "kernel: {}", Shown(Path::new(&text)));
        }
    }

    fn flush(&self) {}
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if log::set_logger(&KernelLog).is_ok() {
        log::set_max_level(log::LevelFilter::Error);
    }
    let mut options = Options::new().fstype("ffs").log(cli.log);
    if let Some(bytes) = cli.memlimit {
        options = options.memory_limit(bytes);
    }
    match p2k::run(&cli.mount, options, cli.readonly) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("rump_ffs: {failure}");
            ExitCode::FAILURE
        }
    }
}
