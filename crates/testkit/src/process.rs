//! Child processes that never outlive their owner.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::eventually;

/// How long a process may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(30);

/// Processes of this program that are alive, for [`end_children_on_signal`].
static ALIVE: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// On the first Ctrl-C or SIGTERM, kills every daemon of this process and ends it with status 130.
///
/// # Errors
/// If the signals cannot be listened to.
pub fn end_children_on_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the signal listener")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        // Held to the end, so that no daemon is started meanwhile.
        let alive = ALIVE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for id in alive.iter() {
            // One that has just ended by itself is as good.
            let _ = Command::new("kill").arg("-KILL").arg(id.to_string()).stderr(Stdio::null()).status();
        }
        std::process::exit(130);
    });
    Ok(())
}

/// A long-running process, its output in a file. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`, with its output appended to `log`.
    ///
    /// # Errors
    /// If the log cannot be written or the program cannot be started.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("opening {}", log.display()))?;
        let mut alive = ALIVE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name}: {}", command.get_program().display()))?;
        alive.insert(child.id());
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Everything it has printed so far, with what earlier processes printed to the same log.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn output(&self) -> Result<String> {
        let bytes = std::fs::read(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits until a line contains `text`, and returns that line.
    ///
    /// # Errors
    /// If the process ends first or the limit passes; the error shows the end of its output.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        let what = format!("{} to print {text:?}", self.name);
        eventually(&what, limit, || {
            let output = self.output()?;
            if let Some(line) = output.lines().find(|line| line.contains(text)) {
                return Ok(Some(line.to_owned()));
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}) before it printed {text:?}:\n{}", self.name, tail(&output));
            }
            Ok(None)
        })
        .with_context(|| format!("output of {}:\n{}", self.name, tail(&self.output().unwrap_or_default())))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If the operating system does not know.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// If the limit passes.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        eventually(&what, limit, || Ok(self.child.try_wait()?))
    }

    /// Ends it at once, as a crash does (SIGKILL).
    ///
    /// # Errors
    /// If it cannot be reaped.
    pub fn kill(&mut self) -> Result<()> {
        // Already gone is as good.
        let _ = self.child.kill();
        self.child.wait().with_context(|| format!("reaping {}", self.name))?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// If it is still there after 30 seconds.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status().context("running kill")?;
        }
        self.wait_for_end(GRACE)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing can be done for a process that cannot be killed; the next line would only panic while unwinding.
        let _ = self.kill();
        ALIVE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.child.id());
    }
}

/// Runs a command to its end with text on its standard input, and returns what it printed. As a daemon, it ends with this process.
///
/// # Errors
/// If it cannot be started.
pub fn output(command: &mut Command, input: &str) -> Result<Output> {
    let mut child = {
        let mut alive = ALIVE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(|| format!("starting {command:?}"))?;
        alive.insert(child.id());
        child
    };
    let id = child.id();
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input may close it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output();
    ALIVE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&id);
    output.with_context(|| format!("running {command:?}"))
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// If it cannot be started, or ends with another status than 0: the error shows its output.
pub fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[S], prepare: impl FnOnce(&mut Command) -> &mut Command) -> Result<Output> {
    let mut command = Command::new(&program);
    command.args(args).stderr(Stdio::piped());
    prepare(&mut command);
    let shown = format!("{command:?}");
    let output = output(&mut command, "")?;
    if !output.status.success() {
        bail!(
            "{shown} ended with {}:\n{}{}",
            output.status,
            tail(&String::from_utf8_lossy(&output.stdout)),
            tail(&String::from_utf8_lossy(&output.stderr))
        );
    }
    Ok(output)
}

/// The last lines of an output.
fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n") + "\n"
}

/// Creates an empty file and the folder it is in.
pub(crate) fn create(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    File::create(path).with_context(|| format!("creating {}", path.display()))
}
