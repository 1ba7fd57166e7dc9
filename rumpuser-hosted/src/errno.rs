//! Between Linux's error numbers and NetBSD's.

use rumpuser::Errno;
use rustix::io::Errno as Linux;

/// Pairs of Linux's and NetBSD's numbers, where both have the error.
const PAIRS: &[(Linux, Errno)] = &[
    (Linux::PERM, Errno::EPERM),
    (Linux::NOENT, Errno::ENOENT),
    (Linux::SRCH, Errno::ESRCH),
    (Linux::INTR, Errno::EINTR),
    (Linux::IO, Errno::EIO),
    (Linux::NXIO, Errno::ENXIO),
    (Linux::TOOBIG, Errno::E2BIG),
    (Linux::BADF, Errno::EBADF),
    (Linux::DEADLK, Errno::EDEADLK),
    (Linux::NOMEM, Errno::ENOMEM),
    (Linux::ACCESS, Errno::EACCES),
    (Linux::FAULT, Errno::EFAULT),
    (Linux::NOTBLK, Errno::ENOTBLK),
    (Linux::BUSY, Errno::EBUSY),
    (Linux::EXIST, Errno::EEXIST),
    (Linux::XDEV, Errno::EXDEV),
    (Linux::NODEV, Errno::ENODEV),
    (Linux::NOTDIR, Errno::ENOTDIR),
    (Linux::ISDIR, Errno::EISDIR),
    (Linux::INVAL, Errno::EINVAL),
    (Linux::NFILE, Errno::ENFILE),
    (Linux::MFILE, Errno::EMFILE),
    (Linux::NOTTY, Errno::ENOTTY),
    (Linux::TXTBSY, Errno::ETXTBSY),
    (Linux::FBIG, Errno::EFBIG),
    (Linux::NOSPC, Errno::ENOSPC),
    (Linux::SPIPE, Errno::ESPIPE),
    (Linux::ROFS, Errno::EROFS),
    (Linux::MLINK, Errno::EMLINK),
    (Linux::PIPE, Errno::EPIPE),
    (Linux::DOM, Errno::EDOM),
    (Linux::RANGE, Errno::ERANGE),
    (Linux::AGAIN, Errno::EAGAIN),
    (Linux::INPROGRESS, Errno::EINPROGRESS),
    (Linux::ALREADY, Errno::EALREADY),
    (Linux::NOTSOCK, Errno::ENOTSOCK),
    (Linux::DESTADDRREQ, Errno::EDESTADDRREQ),
    (Linux::MSGSIZE, Errno::EMSGSIZE),
    (Linux::PROTOTYPE, Errno::EPROTOTYPE),
    (Linux::NOPROTOOPT, Errno::ENOPROTOOPT),
    (Linux::PROTONOSUPPORT, Errno::EPROTONOSUPPORT),
    (Linux::OPNOTSUPP, Errno::EOPNOTSUPP),
    (Linux::AFNOSUPPORT, Errno::EAFNOSUPPORT),
    (Linux::ADDRINUSE, Errno::EADDRINUSE),
    (Linux::ADDRNOTAVAIL, Errno::EADDRNOTAVAIL),
    (Linux::NETDOWN, Errno::ENETDOWN),
    (Linux::NETUNREACH, Errno::ENETUNREACH),
    (Linux::NETRESET, Errno::ENETRESET),
    (Linux::CONNABORTED, Errno::ECONNABORTED),
    (Linux::CONNRESET, Errno::ECONNRESET),
    (Linux::NOBUFS, Errno::ENOBUFS),
    (Linux::ISCONN, Errno::EISCONN),
    (Linux::NOTCONN, Errno::ENOTCONN),
    (Linux::SHUTDOWN, Errno::ESHUTDOWN),
    (Linux::TIMEDOUT, Errno::ETIMEDOUT),
    (Linux::CONNREFUSED, Errno::ECONNREFUSED),
    (Linux::LOOP, Errno::ELOOP),
    (Linux::NAMETOOLONG, Errno::ENAMETOOLONG),
    (Linux::HOSTDOWN, Errno::EHOSTDOWN),
    (Linux::HOSTUNREACH, Errno::EHOSTUNREACH),
    (Linux::NOTEMPTY, Errno::ENOTEMPTY),
    (Linux::DQUOT, Errno::EDQUOT),
    (Linux::STALE, Errno::ESTALE),
    (Linux::NOLCK, Errno::ENOLCK),
    (Linux::NOSYS, Errno::ENOSYS),
    (Linux::OVERFLOW, Errno::EOVERFLOW),
    (Linux::ILSEQ, Errno::EILSEQ),
    (Linux::CANCELED, Errno::ECANCELED),
    (Linux::BADMSG, Errno::EBADMSG),
    (Linux::NODATA, Errno::ENOATTR),
    (Linux::PROTO, Errno::EPROTO),
];

/// Linux's number of EUCLEAN, "Structure needs cleaning": what it says of a corrupt file system.
const EUCLEAN: i32 = 117;

/// NetBSD's error for one of Linux's. What NetBSD lacks becomes `EIO`.
pub(crate) fn from_rustix(error: Linux) -> Errno {
    let found = PAIRS.iter().find(|(linux, _)| *linux == error);
    found.map_or(Errno::EIO, |(_, errno)| *errno)
}

/// NetBSD's error for an I/O error of the standard library's; `EIO` where there is none.
pub fn from_io(error: &std::io::Error) -> Errno {
    match error.raw_os_error() {
        Some(raw) => from_rustix(Linux::from_raw_os_error(raw)),
        None => Errno::EIO,
    }
}

/// Linux's number for one of NetBSD's errors, as a FUSE reply or an exit wants it. `EFTYPE`, a damaged
/// structure, is `EUCLEAN` as Linux's own file systems say it; what Linux lacks is `EIO`.
pub fn to_raw_os_error(errno: Errno) -> i32 {
    match errno {
        Errno::EFTYPE => EUCLEAN,
        Errno::ENOTSUP => Linux::OPNOTSUPP.raw_os_error(),
        _ => {
            let found = PAIRS.iter().find(|(_, ours)| *ours == errno);
            found.map_or(Linux::IO, |(linux, _)| *linux).raw_os_error()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_translated_by_meaning() {
        assert_eq!(from_rustix(Linux::AGAIN), Errno::EAGAIN);
        assert_ne!(Linux::AGAIN.raw_os_error(), i32::from(Errno::EAGAIN.get()));
        assert_eq!(to_raw_os_error(Errno::ENOTEMPTY), 39);
        assert_eq!(to_raw_os_error(Errno::EFTYPE), 117);
    }

    #[test]
    fn each_pair_goes_there_and_back() {
        for (linux, errno) in PAIRS {
            assert_eq!(from_rustix(*linux), *errno);
            assert_eq!(to_raw_os_error(*errno), linux.raw_os_error());
        }
    }
}
