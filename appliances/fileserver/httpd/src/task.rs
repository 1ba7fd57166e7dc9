//! What takes long: removing and copying trees, done a step at a time so that other clients get their turn.

use crate::dav::multistatus;
use crate::http::head::Status;
use crate::place::{self, Placed};
use crate::upload::write_all;
use crate::walk::{Again, Visit, Walk};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use rump::Errno;
use rump::fs::{self, File, FileType, Metadata};
use rumpkern::kmem;

/// Names made or removed in one step.
const NAMES_STEP: usize = 32;

/// Bytes copied at once, and how often in one step.
const COPY_BYTES: usize = 16 << 10;
const COPY_STEP: usize = 8;

/// Failures that are remembered; with more the task ends.
const FAILURES_MAX: usize = 32;

/// Directories that may be found not empty after everything in them was removed.
const AGAIN_MAX: u32 = 1000;

/// How a task ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// For what was asked as a whole.
    Whole(Status),
    /// For these files in it, by full path.
    Members(Vec<(Vec<u8>, Status)>),
}

impl Outcome {
    /// The body of the 207 for members, whose paths begin with a root of `root` bytes.
    pub fn members(failed: &[(Vec<u8>, Status)], root: usize) -> String {
        let mut text = String::from(multistatus::START);
        for (path, status) in failed {
            multistatus::outcome(&mut text, path.get(root..).unwrap_or(b"/"), *status);
        }
        text.push_str(multistatus::END);
        text
    }
}

/// Judges what a copy is to replace.
pub type May = Box<dyn FnOnce(Option<&Metadata>) -> Result<(), Status> + Send>;

/// A task.
pub enum Task {
    /// Removing a tree, then ending so, or with what could not be removed if that is what was asked.
    Remove {
        /// What is removed.
        removal: Removal,
        /// How it ends.
        then: Outcome,
        /// What could not be removed is the outcome.
        tell: bool,
    },
    /// Copying.
    Copy(Box<Copying>),
}

impl Task {
    /// Removes the tree at `path`, because that was asked.
    pub fn remove(path: Vec<u8>) -> Task {
        Task::Remove {
            removal: Removal::new(path),
            then: Outcome::Whole(Status::NO_CONTENT),
            tell: true,
        }
    }

    /// Removes what is in the way, hidden already, and ends as said.
    pub fn clean(path: Vec<u8>, then: Outcome) -> Task {
        Task::Remove {
            removal: Removal::new(path),
            then,
            tell: false,
        }
    }

    /// Does a part; answers how it ended if it did.
    pub fn step(&mut self) -> Option<Outcome> {
        match self {
            Task::Remove {
                removal,
                then,
                tell,
            } => {
                if !removal.step() {
                    return None;
                }
                let failures = core::mem::take(&mut removal.failures);
                if failures.is_empty() {
                    return Some(core::mem::replace(then, Outcome::Members(Vec::new())));
                }
                if *tell {
                    return Some(Outcome::Members(failures));
                }
                for (path, status) in &failures {
                    log::warn!("fileserver: {} stays: {status}", path.escape_ascii());
                }
                Some(core::mem::replace(then, Outcome::Members(failures)))
            }
            Task::Copy(copying) => match copying.step() {
                Ok(false) => None,
                Ok(true) => self.placed(),
                Err(outcome) => {
                    *self = Task::clean(copying.hidden.clone(), outcome);
                    None
                }
            },
        }
    }

    /// A copy is complete: gives it its name.
    fn placed(&mut self) -> Option<Outcome> {
        let Task::Copy(copying) = self else {
            return None;
        };
        let may = copying.may.take()?;
        match place::place(&copying.hidden, &copying.to, may) {
            Ok(Placed::New) => Some(Outcome::Whole(Status::CREATED)),
            Ok(Placed::Replaced) => Some(Outcome::Whole(Status::NO_CONTENT)),
            Ok(Placed::Aside(old)) => {
                *self = Task::clean(old, Outcome::Whole(Status::NO_CONTENT));
                None
            }
            Err(status) => {
                *self = Task::clean(copying.hidden.clone(), Outcome::Whole(status));
                None
            }
        }
    }
}

/// Removing a tree. What can be removed is, also where something cannot (RFC 4918 §9.6.1).
pub struct Removal {
    walk: Walk,
    begun: bool,
    again: u32,
    failures: Vec<(Vec<u8>, Status)>,
}

impl Removal {
    fn new(path: Vec<u8>) -> Removal {
        Removal {
            walk: Walk::new(path, Again::Take),
            begun: false,
            again: 0,
            failures: Vec::new(),
        }
    }

    /// Removes some; answers whether that was all.
    fn step(&mut self) -> bool {
        if !core::mem::replace(&mut self.begun, true) {
            match place::existing(self.walk.path()) {
                Ok(Some(facts)) if facts.is_dir() => {}
                Ok(None) => return true,
                Ok(Some(_)) => {
                    let removed = fs::remove_file(self.walk.path());
                    self.note(removed);
                    return true;
                }
                Err(errno) => {
                    self.note(Err(errno));
                    return true;
                }
            }
        }
        for _ in 0..NAMES_STEP {
            if self.failures.len() >= FAILURES_MAX {
                return true;
            }
            match self.walk.next() {
                None => return true,
                Some(Visit::Enter) => {}
                Some(Visit::Leaf(_)) => {
                    let removed = fs::remove_file(self.walk.path());
                    self.note(removed);
                }
                Some(Visit::Leave) => self.leave(),
                Some(Visit::Failed(errno)) => self.note(Err(errno)),
            }
        }
        false
    }

    fn leave(&mut self) {
        let path = self.walk.path();
        let has_failed = self.failures.iter().any(|(failed, _)| {
            failed
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with(b"/"))
        });
        // Something in it stays, and so does it; that goes without saying.
        if has_failed {
            return;
        }
        match fs::remove_dir(path) {
            // Entries that moved while others were removed, or came meanwhile.
            Err(Errno::ENOTEMPTY) if self.again < AGAIN_MAX => {
                self.again += 1;
                self.walk.enter();
            }
            removed => self.note(removed),
        }
    }

    fn note(&mut self, removed: Result<(), Errno>) {
        let path = self.walk.path();
        let errno = match removed {
            // Somebody else was sooner.
            Ok(()) | Err(Errno::ENOENT) => return,
            Err(errno) => errno,
        };
        if !self.failures.iter().any(|(failed, _)| failed == path) {
            self.failures.push((path.to_vec(), Status::from(errno)));
        }
    }
}

/// Copying a file or a tree to a hidden name. Symbolic links in it are copied as links, and hidden files not at all.
///
/// All or nothing: what cannot be copied whole is not copied. A copy is not made stable, since what it was made
/// from is still there.
pub struct Copying {
    from: Vec<u8>,
    hidden: Vec<u8>,
    to: Vec<u8>,
    may: Option<May>,
    walk: Option<Walk>,
    file: Option<(File, File)>,
}

impl Copying {
    /// Of the file or, if `deep`, the tree at `from`.
    ///
    /// # Errors
    /// The file system's; nothing is left then.
    pub fn new(from: Vec<u8>, to: Vec<u8>, deep: bool, may: May) -> Result<Copying, Errno> {
        let hidden = place::beside(&to);
        let facts = fs::metadata(&from)?;
        let mut copying = Copying {
            from,
            hidden,
            to,
            may: Some(may),
            walk: None,
            file: None,
        };
        match facts.file_type() {
            FileType::Dir => {
                fs::create_dir(&copying.hidden)?;
                let walk = || Walk::new(copying.from.clone(), Again::Skip);
                copying.walk = deep.then(walk);
            }
            FileType::Reg => {
                copying.file = Some(open_both(&copying.from, &copying.hidden)?);
            }
            _ => return Err(Errno::EACCES),
        }
        Ok(copying)
    }

    /// Copies some; answers whether that was all.
    fn step(&mut self) -> Result<bool, Outcome> {
        for _ in 0..NAMES_STEP {
            if let Some((from, to)) = &self.file {
                if !copy_some(from, to).map_err(|errno| self.failed(errno))? {
                    return Ok(false);
                }
                self.file = None;
            }
            let Some(walk) = &mut self.walk else {
                return Ok(true);
            };
            match walk.next() {
                None => return Ok(true),
                Some(visit) => self.visit(visit).map_err(|errno| self.failed(errno))?,
            }
        }
        Ok(false)
    }

    fn visit(&mut self, visit: Visit) -> Result<(), Errno> {
        let Some(walk) = &self.walk else {
            return Ok(());
        };
        let path = walk.path();
        let below = path.get(self.from.len()..).unwrap_or(b"");
        if place::is_hidden_path(below) {
            return Ok(());
        }
        let target = [&self.hidden, below].concat();
        match visit {
            Visit::Enter => fs::create_dir(target),
            Visit::Leave => Ok(()),
            Visit::Failed(errno) => Err(errno),
            Visit::Leaf(FileType::Reg) => {
                self.file = Some(open_both(path, &target)?);
                Ok(())
            }
            Visit::Leaf(FileType::Lnk) => fs::symlink(fs::read_link(path)?, target),
            Visit::Leaf(_) => Err(Errno::EACCES),
        }
    }

    /// RFC 4918 §9.8.5: what concerns a member names it; want of room or memory concerns everything.
    fn failed(&self, errno: Errno) -> Outcome {
        let status = Status::from(errno);
        let whole = matches!(
            status,
            Status::INSUFFICIENT_STORAGE | Status::SERVICE_UNAVAILABLE
        );
        match &self.walk {
            Some(walk) if !whole => Outcome::Members([(walk.path().to_vec(), status)].into()),
            _ => Outcome::Whole(status),
        }
    }
}

fn open_both(from: &[u8], to: &[u8]) -> Result<(File, File), Errno> {
    let from = File::open(from)?;
    let mode = from.metadata()?.stat().attr.mode;
    let to = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(to)?;
    Ok((from, to))
}

/// Copies on where the files' offsets are; answers whether the end was reached.
fn copy_some(from: &File, to: &File) -> Result<bool, Errno> {
    let mut buffer = kmem::try_vec(COPY_BYTES)?;
    buffer.resize(COPY_BYTES, 0);
    for _ in 0..COPY_STEP {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(true);
        }
        write_all(to, buffer.get(..count).ok_or(Errno::EIO)?)?;
    }
    Ok(false)
}
