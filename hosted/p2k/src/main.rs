//! `rump_ffs`: mounts an image with a Berkeley fast file system (NetBSD rump_ffs(8)).
#![forbid(unsafe_code)]

use clap::Parser;
use p2k::MountArgs;
use std::io::{self, Write};
use std::process::ExitCode;
use ukfs::Options;

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
    /// Show more of the kernel's log than errors: warnings, information (-vv), details and, with -f, what Linux asks for (-vvv)
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(flatten)]
    mount: MountArgs,
}

fn say(line: &str) {
    // A line that cannot be shown is lost.
    let _ = writeln!(io::stderr(), "{line}");
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    p2k::start_log(cli.verbose, say);
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
