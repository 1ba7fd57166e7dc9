//! The program on a terminal: the prompt of `sh`, and bars that tell how far a long command is.

use rump_tests::setup;
use rump_tests::terminal::Terminal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use tempfile::TempDir;

/// The program, with a directory of its own for what it might want to keep.
fn rump_fs(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rump_fs"));
    command.env("HOME", home);
    for other in ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"] {
        command.env_remove(other);
    }
    command
}

/// A volume with `/d/notes`, `/d/two words`, `/my dir/it's` and an image of its own name beside it.
struct Volume {
    folder: TempDir,
}

impl Volume {
    fn new() -> Volume {
        let folder = tempfile::tempdir().expect("a folder");
        let volume = Volume { folder };
        fs::create_dir(volume.home()).expect("a folder");
        let image = volume.image();
        volume.run(&["mkfs".as_ref(), "--size".as_ref(), "32m".as_ref(), &image]);
        for dir in ["d", "my dir"] {
            fs::create_dir(volume.path(dir)).expect("a folder");
        }
        for (name, contents) in [
            ("d/notes", "of the notes\n"),
            ("d/two words", "of two words\n"),
            ("my dir/it's", "of its own\n"),
        ] {
            fs::write(volume.path(name), contents).expect("a file");
        }
        let (d, my) = (volume.path("d"), volume.path("my dir"));
        volume.run(&["put".as_ref(), &image, &d, &my, "/".as_ref()]);
        volume
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn home(&self) -> PathBuf {
        self.path("home")
    }

    fn image(&self) -> PathBuf {
        self.path("disk.img")
    }

    /// Runs the program without a terminal; it succeeds, and has nothing to say.
    fn run(&self, words: &[&Path]) {
        let done = rump_fs(&self.home()).args(words).output();
        let done = done.expect("rump_fs runs");
        assert!(
            done.status.success() && done.stderr.is_empty() && done.stdout.is_empty(),
            "{words:?}: {done:?}"
        );
    }

    /// Puts a file of so many bytes on it.
    fn put(&self, name: &str, bytes: usize) {
        let text = "0123456 89abcde\n".repeat(bytes / 16);
        fs::write(self.path(name), text).expect("a file");
        self.run(&[
            "put".as_ref(),
            &self.image(),
            &self.path(name),
            "/".as_ref(),
        ]);
    }

    /// Runs it on a terminal to its end; what is on the screen then, and all that ever was shown.
    fn on_terminal(&self, words: &[&Path]) -> (ExitStatus, String, String) {
        let mut terminal = Terminal::run(rump_fs(&self.home()).args(words));
        let status = terminal.end();
        (status, terminal.screen(), terminal.shown())
    }

    /// It is clean, as a check finds.
    fn end(&self) {
        let report = ukfs::check::check(self.image(), None).expect("it can be checked");
        assert!(report.is_consistent(), "{:?}", report.findings);
    }
}

/// A shell on a terminal.
struct Prompt {
    terminal: Terminal,
    image: PathBuf,
}

impl Prompt {
    fn new(volume: &Volume) -> Prompt {
        let image = volume.image();
        let command = "sh".as_ref();
        let terminal = Terminal::run(rump_fs(&volume.home()).args([command, &*image]));
        let mut prompt = Prompt { terminal, image };
        let first = prompt.at("/");
        prompt.terminal.wait_for(&first);
        prompt
    }

    /// The prompt with `here` as the current directory.
    fn at(&self, here: &str) -> String {
        format!("{}:{here}> ", self.image.display())
    }

    /// Presses keys, and waits until behind the prompt there is just `line`.
    fn becomes(&mut self, keys: &str, line: &str) {
        self.terminal.press(keys);
        let wanted = format!("{}{line}", self.at("/"));
        self.terminal.wait_for(&wanted);
    }

    /// Presses keys that end a line, and waits for the prompt on a further one; what the lines between say.
    fn then(&mut self, keys: &str, here: &str) -> String {
        let (row, prompt) = (self.terminal.row(), self.at(here));
        self.terminal.press(keys);
        self.terminal.wait("another prompt", |terminal| {
            terminal.row() > row && terminal.line() == prompt
        });
        let screen = self.terminal.screen();
        let between = screen.lines().skip(row + 1);
        let count = self.terminal.row() - row - 1;
        between
            .take(count)
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// A command; what it says.
    fn says(&mut self, line: &str) -> String {
        self.becomes(line, line);
        self.then("\r", "/")
    }
}

#[test]
fn tab_completes_commands_and_what_is_on_the_image() {
    let volume = Volume::new();
    let mut prompt = Prompt::new(&volume);
    prompt.becomes("trunc\t", "truncate ");
    // Ctrl-U takes it back.
    prompt.becomes("\x15", "");
    prompt.becomes("cat /d/no\t", "cat /d/notes");
    assert_eq!(prompt.then("\r", "/"), "of the notes\n");
    prompt.becomes("cat d/\t", "cat d/");
    // There are two: a second Tab shows them.
    prompt.terminal.press("\t");
    let both = |terminal: &Terminal| {
        let screen = terminal.screen();
        screen
            .lines()
            .any(|line| line.split_whitespace().eq(["notes", "two", "words"]))
    };
    prompt.terminal.wait("both names", both);
    prompt.becomes("n\t", "cat d/notes");
    prompt.becomes("\x15", "");
    // From the current directory.
    prompt.becomes("cd d", "cd d");
    assert_eq!(prompt.then("\r", "/d"), "");
    prompt.terminal.press("cat n\t");
    let wanted = format!("{}cat notes", prompt.at("/d"));
    prompt.terminal.wait_for(&wanted);
    assert_eq!(prompt.then("\r", "/d"), "of the notes\n");
}

#[test]
fn a_name_that_tab_completes_is_quoted_so_that_it_is_found() {
    let volume = Volume::new();
    let mut prompt = Prompt::new(&volume);
    for (keys, line, contents) in [
        ("cat /d/tw\t", r"cat /d/two\ words", "of two words\n"),
        ("cat '/d/tw\t", "cat '/d/two words'", "of two words\n"),
        ("cat \"/d/tw\t", "cat \"/d/two words\"", "of two words\n"),
        ("cat \"/d/two w\t", "cat \"/d/two words\"", "of two words\n"),
        ("cat /d/two\\ w\t", r"cat /d/two\ words", "of two words\n"),
        ("cat /m\ti\t", r"cat /my\ dir/it\'s", "of its own\n"),
        ("cat '/m\ti\t", "cat \"/my dir/it's\"", "of its own\n"),
    ] {
        prompt.becomes(keys, line);
        assert_eq!(prompt.then("\r", "/"), contents, "{line}");
    }
}

#[test]
fn what_was_typed_comes_back_and_is_forgotten_with_the_shell() {
    let volume = Volume::new();
    let mut prompt = Prompt::new(&volume);
    let (up, down) = ("\x1b[A", "\x1b[B");
    assert_eq!(prompt.says("pwd"), "/\n");
    assert_eq!(prompt.says("ls /d"), "notes\ntwo words\n");
    prompt.becomes(up, "ls /d");
    prompt.becomes(up, "pwd");
    prompt.becomes(down, "ls /d");
    prompt.becomes(up, "pwd");
    assert_eq!(prompt.then("\r", "/"), "/\n");
    prompt.terminal.press("exit\r");
    assert!(prompt.terminal.end().success());
    // It is kept nowhere, as the shell's help has it.
    assert_eq!(fs::read_dir(volume.home()).expect("a folder").count(), 0);
    let mut prompt = Prompt::new(&volume);
    prompt.becomes(&format!("{up}x"), "x");
}

#[test]
fn ctrl_c_takes_back_a_line_and_ctrl_d_ends_the_shell_with_a_clean_volume() {
    let volume = Volume::new();
    let mut prompt = Prompt::new(&volume);
    assert_eq!(prompt.says("mkdir /new"), "");
    prompt.becomes("rm -r /new", "rm -r /new");
    prompt.then("\x03", "/");
    // Nothing of it was done, or is left.
    assert_eq!(prompt.says("ls"), "d\nmy dir\nnew\n");
    prompt.terminal.press("\x04");
    assert!(prompt.terminal.end().success());
    volume.end();
}

#[test]
fn a_command_that_fails_says_file_and_cause_and_the_shell_goes_on() {
    let volume = Volume::new();
    let mut prompt = Prompt::new(&volume);
    let image = volume.image().display().to_string();
    assert_eq!(
        prompt.says("cat /nothing"),
        format!("rump_fs: {image}: /nothing: No such file or directory\n")
    );
    assert_eq!(
        prompt.says("mkdir /d/notes/below"),
        format!("rump_fs: {image}: /d/notes/below: Not a directory\n")
    );
    assert_eq!(prompt.says("cat 'open"), "rump_fs: a quote is not closed\n");
    assert!(
        prompt
            .says("frobnicate")
            .contains("unrecognized subcommand 'frobnicate'")
    );
    assert_eq!(prompt.says("cat /d/notes"), "of the notes\n");
    prompt.terminal.press("\x04");
    assert_eq!(prompt.terminal.end().code(), Some(1));
    volume.end();
}

#[test]
fn ctrl_c_ends_a_command_and_the_shell_goes_on() {
    const SIZE: usize = 8 << 20;
    let volume = Volume::new();
    volume.put("large", SIZE);
    let mut prompt = Prompt::new(&volume);
    prompt.says("mkdir /new");
    prompt.becomes("cat /large", "cat /large");
    prompt.terminal.press("\r");
    let some = |terminal: &Terminal| terminal.shown().contains("0123456 89abcde");
    prompt.terminal.wait("some of the file", some);
    // It cannot come to its end: nobody takes what it shows.
    prompt.terminal.press("\x03");
    let at = prompt.at("/");
    prompt.terminal.wait_for(&at);
    assert!(prompt.terminal.shown().len() < SIZE);
    assert!(prompt.terminal.screen().contains("rump_fs: interrupted\n"));
    prompt.terminal.press("\x04");
    assert_eq!(prompt.terminal.end().code(), Some(1));
    volume.end();
}

#[test]
fn a_bar_tells_how_far_a_copy_is_and_leaves_no_trace() {
    let volume = Volume::new();
    volume.put("file", 1 << 20);
    let (image, file) = (volume.image(), volume.path("file"));
    let out = volume.path("out");
    fs::create_dir(&out).expect("a folder");
    let put: [&Path; 4] = ["put".as_ref(), &image, &file, "/d".as_ref()];
    let get: [&Path; 4] = ["get".as_ref(), &image, "/file".as_ref(), &out];
    for words in [put, get] {
        let (status, screen, shown) = volume.on_terminal(&words);
        assert!(status.success(), "{words:?}: {screen}");
        // The first steps are shown however quick they are.
        for step in ["256.00 KiB/1.00 MiB", "1.00 MiB/1.00 MiB"] {
            assert!(
                shown.contains("copying ") && shown.contains(step),
                "{shown:?}"
            );
        }
        assert_eq!(screen, "", "{words:?}");
        // Without a terminal there is nothing of it.
        volume.run(&words);
    }
    // Of what is below a directory nobody knows how much it is.
    let d: [&Path; 4] = ["put".as_ref(), &image, &volume.path("d"), "/".as_ref()];
    let (status, screen, shown) = volume.on_terminal(&d);
    assert!(status.success() && screen.is_empty(), "{screen}");
    assert!(shown.contains("copying "), "{shown:?}");
    volume.end();
}

#[test]
fn a_complaint_does_not_run_into_a_bar() {
    let volume = Volume::new();
    setup::need(&["mkfifo"]);
    let (image, d) = (volume.image(), volume.path("d"));
    fs::write(d.join("before"), vec![1; 1 << 20]).expect("a file");
    fs::write(d.join("zebra"), vec![1; 1 << 20]).expect("a file");
    let fifo = d.join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("mkfifo runs").success());
    let words: [&Path; 4] = ["put".as_ref(), &image, &d, "/".as_ref()];
    let (status, screen, shown) = volume.on_terminal(&words);
    assert_eq!(status.code(), Some(1), "{screen}");
    assert!(shown.contains("copying "), "{shown:?}");
    let why = "neither file, directory nor symbolic link: not copied";
    assert_eq!(screen, format!("rump_fs: {}: {why}", fifo.display()));
    // What is listed on a terminal has it for itself.
    let words: [&Path; 3] = ["tree".as_ref(), "--hash".as_ref(), &image];
    let (status, _, shown) = volume.on_terminal(&words);
    assert!(status.success() && shown.contains("d/zebra"));
    assert!(!shown.contains("reading"), "{shown:?}");
}
