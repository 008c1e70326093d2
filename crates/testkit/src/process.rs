//! Child processes that never outlive their owner.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::eventually;

/// How long a process may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(30);

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
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name}: {}", command.get_program().display()))?;
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
    }
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// If it cannot be started, or ends with another status than 0: the error shows its output.
pub fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[S], prepare: impl FnOnce(&mut Command) -> &mut Command) -> Result<Output> {
    let mut command = Command::new(&program);
    command.args(args).stdin(Stdio::null());
    prepare(&mut command);
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("starting {shown}"))?;
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
