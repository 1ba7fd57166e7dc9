//! File-system images on the command line: list, read, copy and change what is on them, make and check them, without root and
//! without a driver.
//!
//! `rump_fs [--fstype T] [--log] [--readonly] [--memlimit SIZE] [--json] COMMAND … IMAGE …`; IMAGE is `FILE` or
//! `FILE:PARTITION`. `rump_fs help` tells the commands.
//!
//! - `cli`: the command line; `session`: what the commands share; a module for each group of commands.
//! - Status: 0, or 1 if something could not be done, 2 for a command line that is not understood; `check` answers 1 for an
//!   image that was repaired, 4 for one that is damaged and 8 for one that cannot be checked, as fsck(8).
//! - `--memlimit` is the budget of the kernel's caches and tables (`ukfs::Options::memory_limit`). The program's own heap is the
//!   system's: it holds a buffer; of a tree, the names that are still to be visited; for a check, a bit of each fragment and eight bytes of
//!   each inode.
#![forbid(unsafe_code)]

mod change;
mod cli;
mod copy;
mod list;
mod log;
mod put;
mod session;
mod shell;
mod shown;
mod tree;
mod volume;

use clap::Parser;
use cli::{Cli, Command};
use session::{Failure, Session};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    p2k::start_log(cli.verbose, session::say);
    let mut session = Session::new(&cli);
    let done = run(&mut session, &cli.command);
    let done = done.and_then(|()| session.flush());
    match done {
        // Who read this has read enough.
        Err(Failure::Pipe) => {}
        Err(failure) => session.complain(&failure),
        Ok(()) => {}
    }
    session.status()
}

fn run(session: &mut Session, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Ls {
            long,
            recursive,
            image,
            path,
        } => list::ls(session, image, path.as_deref(), *long, *recursive),
        Command::Tree {
            hash,
            largest,
            image,
            path,
        } => tree::tree(session, image, path.as_deref(), hash.then_some(*largest)),
        Command::Cat { image, path } => copy::cat(session, image, path),
        Command::Get {
            archive,
            image,
            paths,
        } => copy::get(session, image, paths, *archive),
        Command::Stat { image, path } => list::stat(session, image, path),
        Command::Df { image } => volume::df(session, image),
        Command::Mkfs(options) => volume::mkfs(session, options),
        Command::Check { repair, image } => volume::check(session, image, *repair),
        Command::Log(command) => log::log(session, command),
        Command::Mount(args) => {
            let status = p2k::run(args, session.options(), session.readonly())?;
            session.raise(status);
            Ok(())
        }
        Command::Sh { image } => shell::sh(session, image),
        Command::Put {
            archive,
            image,
            paths,
        } => put::put(session, image, paths, *archive),
        Command::Change(change) => change::change(session, change),
    }
}
