//! `log`: the journal of a file system's metadata.

use crate::cli::LogCommand;
use crate::session::{Failure, Session};
use serde::Serialize;
use ukfs::log::{self, Contents, Log, State};
use ukfs::{Error, Source};

/// What `show` shows, and the others when they are done, as JSON has it.
#[derive(Serialize)]
struct Shown {
    image: String,
    log: Option<ShownLog>,
    /// The next mount with a log makes one of so many bytes; 0: of the usual size.
    asked: Option<u64>,
}

#[derive(Serialize)]
struct ShownLog {
    location: &'static str,
    inode: Option<u32>,
    start: u64,
    bytes: u64,
    block_size: u64,
    byte_order: &'static str,
    to_be_removed: bool,
    in_use: bool,
    contents: Option<ShownContents>,
}

#[derive(Serialize)]
struct ShownContents {
    transactions: u64,
    used: u64,
    replayed: u64,
    nameless: u64,
}

impl From<&Contents> for ShownContents {
    fn from(contents: &Contents) -> ShownContents {
        ShownContents {
            transactions: contents.transactions,
            used: contents.used,
            replayed: contents.replayed,
            nameless: contents.nameless,
        }
    }
}

impl From<&Log> for ShownLog {
    fn from(log: &Log) -> ShownLog {
        ShownLog {
            location: match log.inode {
                Some(_) => "inside",
                None => "behind",
            },
            inode: log.inode,
            start: log.start,
            bytes: log.bytes,
            block_size: log.block_size,
            byte_order: order(log),
            to_be_removed: log.to_be_removed,
            in_use: log.in_use,
            contents: match &log.contents {
                Some(Ok(contents)) => Some(contents.into()),
                Some(Err(_)) | None => None,
            },
        }
    }
}

/// Shows, makes or removes a log.
pub fn log(session: &mut Session, command: &LogCommand) -> Result<(), Failure> {
    let (LogCommand::Show { image } | LogCommand::Add { image, .. } | LogCommand::Remove { image }) =
        command;
    let source = Source::parse(image);
    session.is_ffs(&source, "has no log")?;
    let is_shown = matches!(command, LogCommand::Show { .. });
    if !is_shown {
        session.may_change(&source)?;
    }
    let options = session.options();
    match command {
        LogCommand::Show { .. } => {}
        LogCommand::Add { size, .. } => log::add(source.clone(), &options, *size)?,
        LogCommand::Remove { .. } => log::remove(source.clone(), &options)?,
    }
    if !is_shown && !session.json {
        return Ok(());
    }
    let state = log::state(source.clone(), session.memory_limit())?;
    show(session, &source, &state)
}

fn show(session: &mut Session, source: &Source, state: &State) -> Result<(), Failure> {
    let damage = state.log.as_ref().and_then(damage);
    if session.json {
        session.json(&Shown {
            image: source.to_string(),
            log: state.log.as_ref().map(ShownLog::from),
            asked: state.asked,
        })?;
        session.line("")?;
    } else {
        session.line(&format!("{source}: {}", sentence(state)))?;
    }
    match damage {
        Some(error) => Err(error.clone().into()),
        None => Ok(()),
    }
}

/// Why what a log holds cannot be had.
fn damage(log: &Log) -> Option<&Error> {
    log.contents.as_ref().and_then(|it| it.as_ref().err())
}

fn order(log: &Log) -> &'static str {
    match log.big_endian {
        true => "big-endian",
        false => "little-endian",
    }
}

fn sentence(state: &State) -> String {
    let Some(log) = &state.log else {
        return match state.asked {
            None => "no log".to_owned(),
            Some(0) => "no log; the next mount with one makes it".to_owned(),
            Some(bytes) => format!("no log; the next mount with one makes it, of {bytes} bytes"),
        };
    };
    let place = match log.inode {
        Some(inode) => format!("inside the file system (inode {inode})"),
        None => "behind the file system".to_owned(),
    };
    let contents = match &log.contents {
        None => "nothing to replay".to_owned(),
        Some(Err(_)) => "dirty, and damaged".to_owned(),
        Some(Ok(contents)) => format!(
            "dirty: {} transactions in {} bytes, of which a replay writes {}; files to be freed: {}",
            contents.transactions, contents.used, contents.replayed, contents.nameless
        ),
    };
    let removal = match log.to_be_removed {
        true => "; the next mount for writing removes it",
        false => "",
    };
    format!(
        "a log of {} bytes at byte {} {place}, {}; {contents}{removal}",
        log.bytes,
        log.start,
        order(log)
    )
}
