//! What the commands share: how images are opened, where output goes, what is complained about.

use crate::cli::Cli;
use indicatif::{ProgressBar, ProgressStyle, WeakProgressBar};
use serde::Serialize;
use signal_hook::consts::SIGINT;
use signal_hook::flag;
use std::ffi::OsStr;
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use ukfs::{Errno, Image, Options, Shown, Source};

/// Why a command ended.
#[derive(Debug)]
pub enum Failure {
    /// Something with the image.
    Image(ukfs::Error),
    /// Something with a file of the host, which is named.
    Host(String, io::Error),
    /// A sentence.
    Said(String),
    /// Nobody reads the output any more.
    Pipe,
    /// Ctrl-C, in a shell.
    Interrupted,
}

impl From<ukfs::Error> for Failure {
    fn from(error: ukfs::Error) -> Failure {
        Failure::Image(error)
    }
}

impl From<p2k::Failure> for Failure {
    fn from(failure: p2k::Failure) -> Failure {
        match failure {
            p2k::Failure::Image(error) => Failure::Image(error),
            p2k::Failure::Host(path, error) => Failure::host(&path, error),
        }
    }
}

impl Failure {
    /// `error` with the file of the host that it is about.
    pub fn host(path: &Path, error: io::Error) -> Failure {
        Failure::Host(Shown(path).to_string(), error)
    }

    /// Whether the command is to end, whatever else it was to do.
    pub fn is_end(&self) -> bool {
        matches!(self, Failure::Pipe | Failure::Interrupted)
    }

    /// `error` with standard output.
    pub fn output(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Pipe,
            _ => Failure::Host("standard output".into(), error),
        }
    }
}

/// One run of the program.
pub struct Session {
    options: Options,
    fstype: Option<String>,
    readonly: bool,
    /// The image of a shell.
    kept: Option<Image>,
    memory_limit: Option<usize>,
    /// Whether to answer in JSON.
    pub json: bool,
    out: BufWriter<StdoutLock<'static>>,
    /// What is being done is to be left.
    stop: Arc<AtomicBool>,
    status: u8,
}

impl Session {
    /// As the command line says.
    pub fn new(cli: &Cli) -> Session {
        let mut options = Options::new().log(cli.log);
        let memory_limit = cli
            .memlimit
            .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if let Some(bytes) = memory_limit {
            options = options.memory_limit(bytes);
        }
        if let Some(fstype) = &cli.fstype {
            options = options.fstype(fstype);
        }
        Session {
            options,
            fstype: cli.fstype.clone(),
            readonly: cli.readonly,
            kept: None,
            memory_limit,
            json: cli.json,
            out: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
            stop: Arc::default(),
            status: 0,
        }
    }

    /// From now on Ctrl-C ends a command, not the program; pressed again before the command has noticed, it ends the program.
    pub fn catch_interrupts(&self) -> io::Result<()> {
        // In this order: the first looks at what the one before left.
        flag::register_conditional_default(SIGINT, self.stop.clone())?;
        flag::register(SIGINT, self.stop.clone())?;
        Ok(())
    }

    /// Forgets a Ctrl-C that nothing was there to notice.
    pub fn forget_interrupt(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    /// Fails if Ctrl-C was pressed: to be asked wherever much is done.
    pub fn go_on(&self) -> Result<(), Failure> {
        match self.stop.swap(false, Ordering::Relaxed) {
            true => Err(Failure::Interrupted),
            false => Ok(()),
        }
    }

    /// How images are opened, but for whether it is to write.
    pub fn options(&self) -> Options {
        self.options.clone()
    }

    /// Opens an image to read.
    pub fn open(&self, image: &OsStr) -> Result<Image, Failure> {
        if let Some(kept) = &self.kept {
            return Ok(kept.clone());
        }
        Ok(Image::open(Source::parse(image), self.options.clone())?)
    }

    /// Opens an image to change it.
    pub fn open_to_write(&self, image: &OsStr) -> Result<Image, Failure> {
        let source = Source::parse(image);
        self.may_change(&source)?;
        if let Some(kept) = &self.kept {
            return Ok(kept.clone());
        }
        Ok(Image::open(source, self.options.clone().write(true))?)
    }

    /// Whether anything on `source` may be changed.
    pub fn may_change(&self, source: &Source) -> Result<(), Failure> {
        match self.readonly {
            true => {
                let sentence = format!("{source}: --readonly: Read-only file system");
                Err(Failure::Said(sentence))
            }
            false => Ok(()),
        }
    }

    /// Whether it is ffs that was asked for, if a kind was; `cannot` is what is said of others.
    pub fn is_ffs(&self, source: &Source, cannot: &str) -> Result<(), Failure> {
        match self.fstype.as_deref() {
            None | Some("ffs") => Ok(()),
            Some(fstype) => Err(Failure::Said(format!(
                "{source}: a file system of type {fstype} {cannot}"
            ))),
        }
    }

    /// Ends the work on an image that was changed: everything is written.
    pub fn close(&self, image: Image) -> Result<(), Failure> {
        match self.kept {
            Some(_) => Ok(image.sync()?),
            None => Ok(image.close()?),
        }
    }

    /// Opens an image that all commands from now on use: to be changed, if it can be.
    pub fn keep_open(&mut self, image: &OsStr) -> Result<Image, Failure> {
        let opened = match self.readonly {
            true => self.open(image),
            false => match self.open_to_write(image) {
                Err(Failure::Image(error)) if error.errno() == Errno::EROFS => {
                    self.readonly = true;
                    say(&format!("rump_fs: {error}: opened to be read"));
                    self.open(image)
                }
                opened => opened,
            },
        };
        let opened = opened?;
        self.kept = Some(opened.clone());
        Ok(opened)
    }

    /// Closes what [`Session::keep_open`] opened.
    pub fn let_go(&mut self) -> Result<(), Failure> {
        match self.kept.take() {
            Some(image) => Ok(image.close()?),
            None => Ok(()),
        }
    }

    /// Where a path is that was not given: the root, or in a shell the current directory.
    pub fn here(&self) -> &'static Path {
        match self.kept {
            Some(_) => Path::new("."),
            None => Path::new("/"),
        }
    }

    /// Whether nothing may be changed.
    pub fn readonly(&self) -> bool {
        self.readonly
    }

    /// The budget that was asked for.
    pub fn memory_limit(&self) -> Option<usize> {
        self.memory_limit
    }

    /// Writes to standard output.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.go_on()?;
        self.out.write_all(bytes).map_err(Failure::output)
    }

    /// Writes a line to standard output.
    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.go_on()?;
        writeln!(self.out, "{line}").map_err(Failure::output)
    }

    /// Writes a value in JSON, without a newline.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.out, value).map_err(|error| Failure::output(error.into()))
    }

    /// Writes out what is left.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(Failure::output)
    }

    /// Says on standard error that something could not be done; the program's status will tell so, too.
    pub fn complain(&mut self, failure: &Failure) {
        self.raise(1);
        // What was found before stands before it.
        let _ = self.out.flush();
        match failure {
            Failure::Image(error) => say(&format!("rump_fs: {error}")),
            Failure::Host(path, error) => say(&format!("rump_fs: {path}: {error}")),
            Failure::Said(sentence) => say(&format!("rump_fs: {sentence}")),
            Failure::Interrupted => say("rump_fs: interrupted"),
            Failure::Pipe => {}
        }
    }

    /// Makes the status `status` at least.
    pub fn raise(&mut self, status: u8) {
        self.status = self.status.max(status);
    }

    /// How it went.
    pub fn status(&self) -> ExitCode {
        ExitCode::from(self.status)
    }
}

/// The bar that is shown, if there is one.
static SHOWN: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

/// Says a line on standard error, where it does not run into a bar.
pub fn say(line: &str) {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let bar = shown.as_ref().and_then(WeakProgressBar::upgrade);
    drop(shown);
    // A line that cannot be shown is lost.
    let say = || drop(writeln!(io::stderr(), "{line}"));
    match bar {
        Some(bar) => bar.suspend(say),
        None => say(),
    }
}

/// A bar for work on `bytes` bytes (0: nobody knows how many), if standard error is a terminal.
pub fn progress(what: &str, bytes: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match bytes {
        0 => (
            ProgressBar::no_length(),
            "{msg} {spinner} {bytes} ({bytes_per_sec})",
        ),
        bytes => (
            ProgressBar::new(bytes),
            "{msg} {wide_bar} {bytes}/{total_bytes} ({bytes_per_sec}, {eta} left)",
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.downgrade());
    bar
}
