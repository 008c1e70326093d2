//! Child processes that never outlive their owner.
//!
//! Each leads a process group of its own and is ended with all of it: a script goes with what it started. No signal to this program reaches them by
//! itself; so from the first of them on it listens, and ends them before it ends.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::eventually;

/// How long a process may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(30);
/// How long what this program started may take to end after a signal, before it is killed.
const LAST_GRACE: Duration = Duration::from_secs(4);
/// How long this program itself may take then.
const UNWINDING: Duration = Duration::from_secs(6);

/// Process groups that are alive, by their leaders.
static ALIVE: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
/// Whether a signal has come.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn alive() -> MutexGuard<'static, BTreeSet<u32>> {
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a signal has asked this program to end. From then on nothing is started and nothing waited for: both fail, and what is dropped on the way
/// out ends its process and removes its files.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// From now on Ctrl-C, SIGTERM and their like make [`interrupted`] true and ask every child to end. A program that is not gone ten seconds later, or at
/// the second signal, is ended with status 130, its children before it.
///
/// # Errors
/// If the signals cannot be listened to.
pub fn end_children_on_signal() -> Result<()> {
    static LISTENING: Mutex<bool> = Mutex::new(false);
    let mut listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
    if *listening {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the signal listener")?;
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
    let mut signals = {
        let _inside = runtime.enter();
        kinds.into_iter().map(signal).collect::<std::io::Result<Vec<_>>>().context("listening to signals")?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            any(&mut signals).await;
            INTERRUPTED.store(true, Ordering::SeqCst);
            // Whoever holds the lock is starting a process: it is here once the lock is, and nobody after it starts one.
            send("TERM", alive().iter());
            let _ = tokio::time::timeout(LAST_GRACE, any(&mut signals)).await;
            send("KILL", alive().iter());
            // What waited for them unwinds now.
            tokio::time::sleep(UNWINDING).await;
        });
        std::process::exit(130);
    });
    *listening = true;
    Ok(())
}

/// Returns when one of the signals comes.
async fn any(signals: &mut [Signal]) {
    std::future::poll_fn(|context| {
        let come = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
        if come { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// Sends a signal to process groups, by their leaders. One that has just ended by itself is as good.
fn send<'a>(signal: &str, leaders: impl Iterator<Item = &'a u32>) {
    let groups = leaders.map(|leader| format!("-{leader}"));
    // The one of the shell: not every machine has a program of that name.
    let kill = ["-c", "kill -s \"$@\"", "kill", signal, "--"];
    let _ = Command::new("bash").args(kill).args(groups).stdin(Stdio::null()).stderr(Stdio::null()).status();
}

/// Starts a command as the leader of a group.
fn start(command: &mut Command) -> Result<Child> {
    end_children_on_signal()?;
    let mut alive = alive();
    ensure!(!interrupted(), "interrupted before starting {}", command.get_program().display());
    let child = command.process_group(0).spawn().with_context(|| format!("starting {command:?}"))?;
    alive.insert(child.id());
    Ok(child)
}

/// A long-running process, its output in a file. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    /// Bytes that earlier processes left in the log.
    before: usize,
}

impl Daemon {
    /// Starts `command`, with its output appended to `log`.
    ///
    /// # Errors
    /// If the log cannot be written or the program cannot be started.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("opening {}", log.display()))?;
        let before = usize::try_from(file.metadata()?.len())?;
        let child =
            start(command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file)).with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), before })
    }

    /// Everything it has printed so far.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn output(&self) -> Result<String> {
        let bytes = std::fs::read(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(bytes.get(self.before..).unwrap_or_default()).into_owned())
    }

    /// Waits until a line contains `text`, and returns that line.
    ///
    /// # Errors
    /// If the process ends first or the limit passes; the error shows the end of its output.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        let what = format!("{} to print {text:?}", self.name);
        let found = eventually(&what, limit, || {
            // The end first: what it printed before is then in the log.
            let ended = self.ended()?;
            let output = self.output()?;
            match (output.lines().find(|line| line.contains(text)), ended) {
                (Some(line), _) => Ok(Some(line.to_owned())),
                (None, Some(status)) => bail!("{} ended ({status}) before it printed {text:?}", self.name),
                (None, None) => Ok(None),
            }
        });
        found.with_context(|| format!("output of {}:\n{}", self.name, tail(&self.output().unwrap_or_default())))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If the operating system does not know.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        if status.is_some() {
            alive().remove(&self.child.id());
        }
        Ok(status)
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// If the limit passes.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        eventually(&what, limit, || self.ended())
    }

    /// Ends it at once, as a crash does (SIGKILL).
    ///
    /// # Errors
    /// If it cannot be reaped.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            send("KILL", [self.child.id()].iter());
            self.child.wait().with_context(|| format!("reaping {}", self.name))?;
            alive().remove(&self.child.id());
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// If it is still there after 30 seconds.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        if self.ended()?.is_none() {
            send("TERM", [self.child.id()].iter());
        }
        self.wait_for_end(GRACE)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing can be done for a process that cannot be killed; the next line would only panic while unwinding.
        let _ = self.kill();
    }
}

/// Runs a command to its end with text on its standard input, and returns what it printed. As a daemon, it ends with this process.
///
/// # Errors
/// If it cannot be started.
pub fn output(command: &mut Command, input: &str) -> Result<Output> {
    let mut child = start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let id = child.id();
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input may close it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output();
    alive().remove(&id);
    ensure!(!interrupted(), "interrupted while running {command:?}");
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
