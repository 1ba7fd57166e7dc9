//! `mkdir`, `rm`, `mv`, `ln`, `chmod`, `chown`, `truncate`: changes of what is on an image.

use crate::cli::{Change, Owner};
use crate::session::{Failure, Session};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use ukfs::{Errno, Image};

/// Does one change to an image, and writes it back.
pub fn change(session: &mut Session, change: &Change) -> Result<(), Failure> {
    let image = session.open_to_write(change.image())?;
    let done = apply(session, &image, change);
    // What was done before something failed stays, and is written.
    let closed = session.close(image);
    done?;
    closed
}

fn apply(session: &mut Session, image: &Image, change: &Change) -> Result<(), Failure> {
    match change {
        Change::Mkdir { parents, paths, .. } => each(session, paths, |path| match parents {
            true => create_all(image, path),
            false => image.create_dir(path),
        }),
        Change::Rm {
            recursive, paths, ..
        } => each(session, paths, |path| match recursive {
            true => image.remove_all(path),
            false => image.remove_file(path),
        }),
        Change::Mv { paths, .. } => rename(session, image, paths),
        Change::Ln {
            symbolic,
            target,
            name,
            ..
        } => {
            let name = within(image, name, target);
            match symbolic {
                true => image.symlink(target, &name)?,
                false => image.hard_link(target, &name)?,
            }
            Ok(())
        }
        Change::Chmod { mode, paths, .. } => {
            each(session, paths, |path| image.set_mode(path, *mode))
        }
        Change::Chown { owner, paths, .. } => {
            let Owner { uid, gid } = *owner;
            each(session, paths, |path| image.set_owner(path, uid, gid))
        }
        Change::Truncate { size, paths, .. } => {
            each(session, paths, |path| match image.symlink_metadata(path) {
                Err(error) if error.errno() == Errno::ENOENT => {
                    image.create_file(path)?.set_len(*size)
                }
                _ => image.set_len(path, *size),
            })
        }
    }
}

/// Does `act` with each path; what fails is said, and the next one tried.
fn each(
    session: &mut Session,
    paths: &[PathBuf],
    mut act: impl FnMut(&Path) -> Result<(), ukfs::Error>,
) -> Result<(), Failure> {
    for path in paths {
        session.go_on()?;
        if let Err(error) = act(path) {
            session.complain(&error.into());
        }
    }
    Ok(())
}

/// Makes a directory and those above it that are not there.
fn create_all(image: &Image, path: &Path) -> Result<(), ukfs::Error> {
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.reverse();
    for path in above {
        let is_there = image.metadata(path).is_ok_and(|known| known.is_dir());
        if !is_there && path != Path::new("") {
            image.create_dir(path)?;
        }
    }
    Ok(())
}

/// Where something called as `from` is goes: into `to` if that is a directory.
fn within(image: &Image, to: &Path, from: &Path) -> PathBuf {
    let is_dir = image.metadata(to).is_ok_and(|known| known.is_dir());
    match from.file_name() {
        Some(name) if is_dir => to.join(name),
        _ => to.to_owned(),
    }
}

fn rename(session: &mut Session, image: &Image, paths: &[PathBuf]) -> Result<(), Failure> {
    let Some((to, from)) = paths.split_last() else {
        return Ok(());
    };
    if from.len() > 1 && !image.metadata(to)?.is_dir() {
        let sentence = format!("{}: {}: Not a directory", image.source(), ukfs::Shown(to));
        return Err(Failure::Said(sentence));
    }
    each(session, from, |from| {
        image.rename(from, within(image, to, from))
    })
}

impl Change {
    /// The image that is to change.
    fn image(&self) -> &OsStr {
        match self {
            Change::Mkdir { image, .. }
            | Change::Rm { image, .. }
            | Change::Mv { image, .. }
            | Change::Ln { image, .. }
            | Change::Chmod { image, .. }
            | Change::Chown { image, .. }
            | Change::Truncate { image, .. } => image,
        }
    }
}
