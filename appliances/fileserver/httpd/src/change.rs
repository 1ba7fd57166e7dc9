//! PUT, DELETE, MKCOL, COPY and MOVE (RFC 9110 §9.3, RFC 4918 §9).

use crate::http::body::BodyLength;
use crate::http::condition;
use crate::http::destination::{self, BadDestination};
use crate::http::head::{Head, Status};
use crate::http::request::{Depth, Method, Request};
use crate::metrics;
use crate::place::{self, Placed};
use crate::propfind::tag_of;
use crate::respond::{Outgoing, Plan, Sink, full_path, short, told};
use crate::task::{Copying, Outcome, Task};
use crate::upload::Upload;
use alloc::boxed::Box;
use alloc::vec::Vec;
use rump::fs::{self, Metadata};
use rump::{Errno, sys};

/// Permission bits of a new file, before the umask.
const MODE: u16 = 0o666;

/// Decides what a request that changes something comes to. `path` is no hidden one.
pub(crate) fn decide(
    request: &Request,
    root: &[u8],
    path: &[u8],
    wall: i64,
) -> Result<Plan, Status> {
    if request.method == Method::Put {
        return put(request, root, path, wall);
    }
    // RFC 4918 §8.4: none of these has a use for a body.
    if request.has_body() {
        return Err(Status::UNSUPPORTED_MEDIA_TYPE);
    }
    match request.method {
        Method::Delete => delete(request, root, path, wall),
        Method::Mkcol => {
            let status = mkcol(request, root, path, wall)?;
            Ok(Plan::Answer(short(
                request,
                status,
                request.keep_alive,
                wall,
            )))
        }
        Method::Copy | Method::Move => transfer(request, root, path, wall),
        _ => Err(Status::METHOD_NOT_ALLOWED),
    }
}

/// Whether the request may be carried out on what is there.
fn check(request: &Request, current: Option<&Metadata>, wall: i64) -> Result<(), Status> {
    match condition::holds(request, current.map(tag_of), wall) {
        true => Ok(()),
        false => Err(Status::PRECONDITION_FAILED),
    }
}

/// RFC 4918 §9.3.1, §9.7.1, §9.8.5: the collection that something is to be in must be there.
fn check_parent(full: &[u8]) -> Result<(), Status> {
    let parent = [place::parent(full), b"/"].concat();
    match fs::metadata(&parent) {
        Ok(facts) if facts.is_dir() => Ok(()),
        Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Err(Status::CONFLICT),
        Err(errno) => Err(told(&parent, errno)),
    }
}

/// What is at `full` now; `None` also where the way there is missing.
fn current(full: &[u8]) -> Result<Option<Metadata>, Status> {
    match fs::metadata(full) {
        Ok(facts) => Ok(Some(facts)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(errno) => Err(told(full, errno)),
    }
}

fn put(request: &Request, root: &[u8], path: &[u8], wall: i64) -> Result<Plan, Status> {
    // RFC 9110 §14.5: a part must not be taken for the whole.
    if request.has_content_range {
        return Err(Status::BAD_REQUEST);
    }
    if path.ends_with(b"/") {
        return Err(Status::METHOD_NOT_ALLOWED);
    }
    let full = full_path(root, path);
    let current = current(&full)?;
    let mode = match &current {
        Some(facts) if facts.is_dir() => return Err(Status::METHOD_NOT_ALLOWED),
        Some(facts) if !facts.is_file() => return Err(Status::FORBIDDEN),
        Some(facts) => facts.stat().attr.mode & 0o777,
        None => MODE,
    };
    check_parent(&full)?;
    check(request, current.as_ref(), wall)?;
    check_room(&full, request.body)?;
    let upload = Upload::new(full, mode).map_err(|errno| told(path, errno))?;
    Ok(Plan::Receive(Sink::Upload(upload)))
}

/// What cannot fit is refused before it is sent: the old file and the new one are there together for a while.
fn check_room(full: &[u8], body: BodyLength) -> Result<(), Status> {
    let BodyLength::Bytes(length) = body else {
        return Ok(());
    };
    let parent = [place::parent(full), b"/"].concat();
    let volume = sys::statvfs(&parent).map_err(|errno| told(&parent, errno))?;
    if volume.read_only {
        return Err(Status::FORBIDDEN);
    }
    // A file system that does not count its blocks says that it has none.
    let free = volume.bfree.saturating_mul(volume.frsize);
    if volume.blocks > 0 && length > free {
        return Err(Status::INSUFFICIENT_STORAGE);
    }
    Ok(())
}

/// Answers a PUT whose body has come wholly.
pub(crate) fn finish_put(request: &Request, upload: Upload, wall: i64) -> Outgoing {
    let finished = upload.finish(|current| match current {
        Some(facts) if facts.is_dir() => Err(Status::METHOD_NOT_ALLOWED),
        current => check(request, current, wall),
    });
    let (facts, replaced) = match finished {
        Ok(finished) => finished,
        Err(status) => return short(request, status, request.keep_alive, wall),
    };
    let status = match replaced {
        true => Status::NO_CONTENT,
        false => Status::CREATED,
    };
    let mut head = Head::new(status, wall);
    if !replaced {
        head.line(format_args!("Content-Length: 0"));
    }
    // RFC 9110 §9.3.4: the file is exactly what was sent.
    head.line(format_args!("ETag: {}", tag_of(&facts)));
    Outgoing::text(head.finish(request.keep_alive), request.keep_alive)
}

fn mkcol(request: &Request, root: &[u8], path: &[u8], wall: i64) -> Result<Status, Status> {
    let full = full_path(root, path);
    let current = current(&full)?;
    if path == b"/" || current.is_some() {
        return Err(Status::METHOD_NOT_ALLOWED);
    }
    check(request, None, wall)?;
    check_parent(&full)?;
    match fs::create_dir(&full) {
        Ok(()) => Ok(Status::CREATED),
        Err(Errno::EEXIST) => Err(Status::METHOD_NOT_ALLOWED),
        Err(errno) => Err(told(path, errno)),
    }
}

/// What a DELETE, COPY or MOVE is about; a symbolic link is looked at itself.
fn source(root: &[u8], path: &[u8]) -> Result<(Vec<u8>, Metadata), Status> {
    let full = full_path(root, path);
    let facts = place::existing(&full).map_err(|errno| told(path, errno))?;
    let facts = facts.ok_or(Status::NOT_FOUND)?;
    let is_collection = fs::metadata(&full).is_ok_and(|facts| facts.is_dir());
    if path.ends_with(b"/") && !is_collection {
        return Err(Status::NOT_FOUND);
    }
    Ok((full, facts))
}

fn delete(request: &Request, root: &[u8], path: &[u8], wall: i64) -> Result<Plan, Status> {
    if path == b"/" {
        return Err(Status::FORBIDDEN);
    }
    let (full, facts) = source(root, path)?;
    if facts.is_dir() {
        // RFC 4918 §9.6.1.
        if !matches!(request.depth, None | Some(Depth::Infinity)) {
            return Err(Status::BAD_REQUEST);
        }
        check(request, Some(&facts), wall)?;
        check_writable(&full)?;
        return Ok(Plan::Work(Task::remove(full)));
    }
    place::remove(&full, |current| check(request, current, wall))?;
    Ok(Plan::Answer(short(
        request,
        Status::NO_CONTENT,
        request.keep_alive,
        wall,
    )))
}

/// Of a tree on a mount that is read-only nothing can be removed; that need not be said of each file.
fn check_writable(full: &[u8]) -> Result<(), Status> {
    match sys::statvfs(full) {
        Ok(volume) if volume.read_only => Err(Status::FORBIDDEN),
        Ok(_) => Ok(()),
        Err(errno) => Err(told(full, errno)),
    }
}

/// COPY and MOVE.
fn transfer(request: &Request, root: &[u8], path: &[u8], wall: i64) -> Result<Plan, Status> {
    let value = request.destination.as_deref().ok_or(Status::BAD_REQUEST)?;
    let to = destination::parse(value, request.host.as_deref()).map_err(|bad| match bad {
        BadDestination::Malformed => Status::BAD_REQUEST,
        BadDestination::Elsewhere => Status::BAD_GATEWAY,
    })?;
    if place::is_hidden_path(&to) || to == metrics::PATH || to == b"/" || path == b"/" {
        return Err(Status::FORBIDDEN);
    }
    let (from, facts) = source(root, path)?;
    let is_move = request.method == Method::Move;
    let deep = match request.depth {
        None | Some(Depth::Infinity) => true,
        Some(Depth::Zero) if !is_move || !facts.is_dir() => false,
        Some(_) => return Err(Status::BAD_REQUEST),
    };
    let to = full_path(root, &to);
    // RFC 4918 §9.8.5, §9.9.4: the same; nor can a tree be put into itself, or in the place of what it is in.
    if is_within(&to, &from) || is_within(&from, &to) {
        return Err(Status::FORBIDDEN);
    }
    check_parent(&to)?;
    check(request, Some(&facts), wall)?;
    let exists = place::existing(&to).map_err(|errno| told(&to, errno))?;
    let overwrite = request.overwrite;
    let may = move |current: Option<&Metadata>| match current {
        Some(_) if !overwrite => Err(Status::PRECONDITION_FAILED),
        _ => Ok(()),
    };
    may(exists.as_ref())?;
    if !is_move {
        check_writable(&[place::parent(&to), b"/"].concat())?;
        let copying = Copying::new(from, to, deep, Box::new(may));
        let copying = copying.map_err(|errno| told(path, errno))?;
        return Ok(Plan::Work(Task::Copy(Box::new(copying))));
    }
    let status = match place::place(&from, &to, may)? {
        Placed::New => Status::CREATED,
        Placed::Replaced => Status::NO_CONTENT,
        Placed::Aside(old) => {
            let then = Outcome::Whole(Status::NO_CONTENT);
            return Ok(Plan::Work(Task::clean(old, then)));
        }
    };
    Ok(Plan::Answer(short(
        request,
        status,
        request.keep_alive,
        wall,
    )))
}

/// Whether `path` is `tree` or in it.
fn is_within(path: &[u8], tree: &[u8]) -> bool {
    path.strip_prefix(tree)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::is_within;

    #[test]
    fn a_tree_holds_itself_and_what_is_below_not_its_neighbours() {
        assert!(is_within(b"/a", b"/a"));
        assert!(is_within(b"/a/b", b"/a"));
        assert!(!is_within(b"/ab", b"/a"));
        assert!(!is_within(b"/a", b"/a/b"));
        assert!(is_within(b"/a", b""));
    }
}
