//! What went wrong, and with what.

use rumpuser::Errno;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Why something could not be done: the image, the file on it, the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    what: String,
    why: Option<String>,
    errno: Errno,
}

impl Error {
    pub(crate) fn new(what: impl Into<String>, errno: Errno) -> Error {
        Error {
            what: what.into(),
            why: None,
            errno,
        }
    }

    /// With a reason that says more than the number's own text.
    pub(crate) fn because(what: impl Into<String>, why: impl Into<String>, errno: Errno) -> Error {
        Error {
            what: what.into(),
            why: Some(why.into()),
            errno,
        }
    }

    pub(crate) fn of_file(image: &str, path: &Path, errno: Errno) -> Error {
        Error::new(format!("{image}: {}", Shown(path)), errno)
    }

    /// The same, with a reason that says more than the number's own text.
    pub(crate) fn saying(self, why: impl Into<String>) -> Error {
        Error {
            why: Some(why.into()),
            ..self
        }
    }

    /// The error number.
    pub fn errno(&self) -> Errno {
        self.errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Some(why) => write!(f, "{}: {why}", self.what),
            None => write!(f, "{}: {}", self.what, self.errno.message()),
        }
    }
}

impl std::error::Error for Error {}

/// The kind is that of the error number; the text stays.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> std::io::Error {
        let number = rumpuser_hosted::to_raw_os_error(error.errno);
        let kind = std::io::Error::from_raw_os_error(number).kind();
        std::io::Error::new(kind, error)
    }
}

/// A path from an image, to be shown to a person: what is no character, or would command a terminal, as `\\x1b`.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_os_str().as_bytes().utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\\' => write!(f, "\\\\")?,
                    control if control.is_control() => write!(f, "\\x{:02x}", u32::from(control))?,
                    other => write!(f, "{other}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_name_cannot_command_a_terminal() {
        let name = OsStr::from_bytes(b"a\x1b[2J\\\xff \xc3\xbc");
        let shown = Shown(Path::new(name)).to_string();
        assert_eq!(shown, "a\\x1b[2J\\\\\\xff \u{fc}");
    }
}
