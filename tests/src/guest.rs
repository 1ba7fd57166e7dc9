//! One guest: `run-qemu.sh` with an image, its console, and its end.

use std::fs::File;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::http::{self, Response};
use crate::namespace::Namespace;
use crate::{root, scratch, setup};

/// Guests that run at the same time on a machine, whichever test, program or worker started them.
pub const AT_ONCE: usize = 2;

/// How long a guest may take to boot, or to say something that it should; slow machines without KVM included.
pub const SOON: Duration = Duration::from_secs(60);

/// In the environment of a guest's processes, to know them by.
const MARK: &str = "RUMP_TESTS_GUEST";

static NEXT: AtomicU64 = AtomicU64::new(0);

/// The guest's address on a tap device, and the host's there.
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

enum Network<'a> {
    User,
    Tap(&'a Namespace),
    None,
}

/// What to boot, and on what machine.
pub struct Boot<'a> {
    image: PathBuf,
    disks: Vec<PathBuf>,
    options: Vec<String>,
    qemu_args: Vec<String>,
    network: Network<'a>,
    limit: Duration,
    keep_writes: bool,
}

impl<'a> Boot<'a> {
    /// An image on a default machine, with a network and no disk.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self {
            image: image.into(),
            disks: Vec::new(),
            options: Vec::new(),
            qemu_args: Vec::new(),
            network: Network::User,
            limit: Duration::from_secs(600),
            keep_writes: false,
        }
    }

    /// One more disk. What the guest writes is thrown away, so that guests can share it, unless [`Boot::keeping_writes`].
    #[must_use]
    pub fn disk(mut self, disk: impl Into<PathBuf>) -> Self {
        self.disks.push(disk.into());
        self
    }

    /// Lets the guest's writes reach its disks.
    #[must_use]
    pub fn keeping_writes(mut self) -> Self {
        self.keep_writes = true;
        self
    }

    /// Memory as QEMU takes it: MiB, or with a suffix.
    #[must_use]
    pub fn memory(self, size: &str) -> Self {
        self.option("-m", size)
    }

    /// `q35` or `pc`.
    #[must_use]
    pub fn machine(self, machine: &str) -> Self {
        self.option("--machine", machine)
    }

    /// More words for the kernel's command line.
    #[must_use]
    pub fn append(self, words: &str) -> Self {
        self.option("--append", words)
    }

    /// Leaves the network device out.
    #[must_use]
    pub fn without_network(mut self) -> Self {
        self.network = Network::None;
        self
    }

    /// Puts the guest on the tap device of a namespace, with the address [`GUEST_ADDRESS`].
    #[must_use]
    pub fn on_tap(mut self, namespace: &'a Namespace) -> Self {
        self.network = Network::Tap(namespace);
        self.append(&format!(
            "ip={GUEST_ADDRESS}/24,{}",
            Namespace::HOST_ADDRESS
        ))
    }

    /// One more argument for QEMU itself.
    #[must_use]
    pub fn qemu_arg(mut self, arg: &str) -> Self {
        self.qemu_args.push(arg.to_owned());
        self
    }

    /// Ends the guest after this time, whatever happens to the test.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    fn option(mut self, option: &str, value: &str) -> Self {
        self.options.extend([option.to_owned(), value.to_owned()]);
        self
    }

    /// Starts QEMU, waiting until fewer than [`AT_ONCE`] others run.
    pub fn start(self) -> Guest {
        setup::need(&[]);
        let slot = Slot::take();
        let mut command;
        let address;
        let network: String;
        match self.network {
            Network::Tap(namespace) => {
                command = namespace.command(&root().join("run-qemu.sh"));
                network = format!("tap={}", Namespace::TAP);
                address = Some(SocketAddr::from((GUEST_ADDRESS, 80)));
            }
            Network::User | Network::None => {
                command = Command::new(root().join("run-qemu.sh"));
                let user = matches!(self.network, Network::User);
                network = if user { "user" } else { "none" }.to_owned();
                address = user.then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, slot.free_port())));
            }
        }
        command
            .arg("--timeout")
            .arg(self.limit.as_secs().to_string())
            .args(&self.options)
            .args(["--net", &network]);
        if let (Some(address), Network::User) = (address, &self.network) {
            command.arg("--http-port").arg(address.port().to_string());
        }
        for disk in &self.disks {
            command.arg("--disk").arg(disk);
        }
        command.arg(&self.image).arg("--");
        if !self.keep_writes {
            command.arg("-snapshot");
        }
        command.args(&self.qemu_args);
        Guest::start(command, slot, address)
    }
}

/// One of the [`AT_ONCE`] places, held by a lock on a file that the system drops with the process.
pub(crate) struct Slot {
    number: u16,
    _lock: File,
}

impl Slot {
    pub(crate) fn take() -> Self {
        let folder = scratch("slots");
        loop {
            for number in 0..AT_ONCE {
                let file = File::create(folder.join(number.to_string())).expect("a lock file");
                if file.try_lock().is_ok() {
                    return Self {
                        number: u16::try_from(number).expect("few"),
                        _lock: file,
                    };
                }
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// A port of this slot's own range, below those that the system gives to clients.
    fn free_port(&self) -> u16 {
        let first = 18_000 + self.number * 500;
        // Not always the first: connections to the last guest there may linger.
        let start = u16::try_from(std::process::id() % 400).expect("below 400");
        (first + start..first + 500)
            .chain(first..first + start)
            .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
            .expect("one of 500 ports is free")
    }
}

/// What was printed, from two pipes that each cut lines where they like: a line of one never lands within a line of the other.
#[derive(Default)]
struct Printed {
    lines: Vec<u8>,
    /// The beginning of a line, of each pipe.
    unfinished: [Vec<u8>; 2],
}

impl Printed {
    fn add(&mut self, pipe: usize, piece: &[u8]) {
        let unfinished = &mut self.unfinished[pipe];
        unfinished.extend_from_slice(piece);
        if let Some(last) = unfinished.iter().rposition(|byte| *byte == b'\n') {
            self.lines.extend(unfinished.drain(..=last));
        }
    }
}

#[derive(Default)]
struct Console {
    printed: Mutex<Printed>,
    more: Condvar,
}

impl Console {
    fn lock(&self) -> MutexGuard<'_, Printed> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn copy_from(self: &Arc<Self>, pipe: usize, mut source: impl Read + Send + 'static) {
        let console = Arc::clone(self);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = source.read(&mut piece) {
                console.lock().add(pipe, &piece[..length]);
                console.more.notify_all();
            }
        });
    }
}

/// A running guest; dropping it ends it.
pub struct Guest {
    child: Child,
    /// What [`MARK`] says in its processes.
    mark: String,
    /// Where they put what they need for a while. A killed script leaves it.
    scratch: PathBuf,
    console: Arc<Console>,
    address: Option<SocketAddr>,
    _slot: Slot,
}

impl Guest {
    fn start(mut command: Command, slot: Slot, address: Option<SocketAddr>) -> Self {
        // A process group of its own: dropping the guest ends all of it. Not the test's terminal, either.
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}.{number}", std::process::id());
        let scratch = scratch("guests").join(&mark);
        std::fs::create_dir_all(&scratch).expect("a folder under target");
        command.env(MARK, &mark).env("TMPDIR", &scratch);
        let mut child = command.spawn().expect("run-qemu.sh starts");
        let console = Arc::new(Console::default());
        console.copy_from(0, child.stdout.take().expect("piped"));
        console.copy_from(1, child.stderr.take().expect("piped"));
        Self {
            child,
            mark,
            scratch,
            console,
            address,
            _slot: slot,
        }
    }

    /// All that the guest and QEMU have printed so far.
    pub fn console(&self) -> String {
        let printed = self.console.lock();
        let mut text = printed.lines.clone();
        text.extend(printed.unfinished.iter().flatten());
        drop(printed);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Where the guest's port 80 is for a client.
    ///
    /// # Panics
    /// If it has no network.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("this guest was booted with a network")
    }

    /// Waits until the console shows `text`, and gives the whole line.
    ///
    /// # Panics
    /// With the console, if that takes too long or the guest ends before.
    pub fn wait_for(&mut self, text: &str, within: Duration) -> String {
        let deadline = Instant::now() + within;
        loop {
            if let Some(line) = self.line_with(text) {
                return line;
            }
            let ended = self.child.try_wait().expect("our child").is_some();
            let shown = self.console.lock();
            let left = deadline.saturating_duration_since(Instant::now());
            if ended || left.is_zero() {
                drop(shown);
                // What was printed last may still be on its way through the pipe.
                sleep(Duration::from_millis(100));
                if let Some(line) = self.line_with(text) {
                    return line;
                }
                panic!(
                    "no {text:?} on the console {}",
                    if ended {
                        "of a guest that ended"
                    } else {
                        "in time"
                    }
                );
            }
            drop(
                self.console
                    .more
                    .wait_timeout(shown, left.min(Duration::from_millis(100))),
            );
        }
    }

    /// The first whole line on the console that has `text` in it.
    pub fn line_with(&self, text: &str) -> Option<String> {
        String::from_utf8_lossy(&self.console.lock().lines)
            .lines()
            .find(|line| line.contains(text))
            .map(|line| line.trim_end().to_owned())
    }

    /// Waits until the guest answers HTTP requests.
    #[must_use]
    pub fn serving(mut self) -> Self {
        self.wait_for("run-qemu: answers at ", SOON);
        self
    }

    /// One GET request.
    ///
    /// # Panics
    /// If no whole answer comes.
    pub fn get(&self, target: &str) -> Response {
        http::get(self.address(), target).unwrap_or_else(|error| panic!("GET {target}: {error:#}"))
    }

    /// The part of a stack that a thread used at most, of the thread that used the largest. The guest has ended in order.
    ///
    /// # Panics
    /// If it has not.
    pub fn stack_used(&self) -> f64 {
        let line = self.line_with("stacks: thread").expect("a last line");
        let numbers: Vec<f64> = line
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        let [used, bytes] = numbers[..] else {
            panic!("{line}");
        };
        println!("{line}");
        used / bytes
    }

    /// Types on its console.
    ///
    /// # Panics
    /// If it has ended.
    pub fn type_text(&mut self, text: &str) {
        let keyboard = self.child.stdin.as_mut().expect("piped");
        keyboard.write_all(text.as_bytes()).expect("the guest runs");
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// The numbers and names of the processes of this guest that run, `run-qemu.sh` and what it started.
    ///
    /// # Panics
    /// If there is no `/proc`.
    pub fn processes(&self) -> Vec<(String, String)> {
        let ours = format!("{MARK}={}\0", self.mark);
        let processes = std::fs::read_dir("/proc").expect("a /proc");
        let found = processes.filter_map(|entry| {
            let folder = entry.ok()?.path();
            // Empty once it has ended.
            let environment = std::fs::read(folder.join("environ")).ok()?;
            let mut windows = environment.windows(ours.len());
            let name = std::fs::read_to_string(folder.join("comm")).ok()?;
            let number = folder.file_name()?.to_string_lossy().into_owned();
            windows
                .any(|some| some == ours.as_bytes())
                .then(|| (number, name.trim_end().to_owned()))
        });
        found.collect()
    }

    fn find_qemu(&self) -> Option<String> {
        let mut processes = self.processes().into_iter();
        let qemu = processes.rfind(|(_, name)| name.starts_with("qemu-system"));
        qemu.map(|(number, _)| number)
    }

    /// The number of QEMU's process.
    ///
    /// # Panics
    /// If it does not run.
    pub fn qemu(&self) -> String {
        self.find_qemu().expect("QEMU runs")
    }

    /// The processor time that QEMU has used so far.
    ///
    /// # Panics
    /// If it does not run.
    pub fn processor_time(&self) -> Duration {
        let stat = Path::new("/proc").join(self.qemu()).join("stat");
        let stat = std::fs::read_to_string(stat).expect("QEMU runs");
        // proc_pid_stat(5): "pid (comm) state ppid pgrp session tty tpgid flags minflt cminflt majflt cmajflt utime stime …"
        let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
        let ticks = rest
            .split(' ')
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().unwrap_or(0))
            .sum::<u64>();
        // SAFETY: sysconf takes no pointers.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        Duration::from_secs_f64(ticks as f64 / per_second as f64)
    }

    /// Waits for the guest's end, and gives the exit status of `run-qemu.sh`.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn exit_status(&mut self, within: Duration) -> i32 {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status.code().unwrap_or_else(|| {
                    panic!("run-qemu.sh ended by signal {:?}", status.signal())
                });
            }
            assert!(Instant::now() < deadline, "the guest did not end in time");
            sleep(Duration::from_millis(10));
        }
    }

    /// Sends `run-qemu.sh`, and nothing else, a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill touches no memory; the child is ours and not yet reaped, so its id is its own.
        unsafe { libc::kill(self.child.id().cast_signed(), signal) };
    }
}

impl Guest {
    /// Sends a signal to the whole process group of `run-qemu.sh`.
    pub fn signal_group(&self, signal: i32) {
        // SAFETY: kill touches no memory; the group is the one that `start` made, and its leader is not reaped, so its id is its own.
        unsafe { libc::kill(-self.child.id().cast_signed(), signal) };
    }

    /// Kills QEMU itself, as the system does when it wants the memory.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill_qemu(&self) {
        let pid = self.qemu().parse().expect("a number");
        // SAFETY: kill touches no memory; the process is one of ours by its environment, and `run-qemu.sh` has not reaped it before
        // it has ended.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "--- console of the guest ---\n{}\n----------------------------",
                self.console()
            );
        }
        if self.is_running() {
            // QEMU goes with its parent.
            self.signal_group(libc::SIGKILL);
            let _ = self.child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// A file in `target/tests/images` with these bytes, for an image that a test makes itself.
pub fn image_file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = scratch("images").join(name);
    write_whole(&path, bytes);
    path
}

/// Writes a file so that another process sees all of it or none.
pub fn write_whole(path: &Path, bytes: &[u8]) {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    std::fs::write(&new, bytes).expect("a file under target");
    std::fs::rename(&new, path).expect("a file under target");
}
