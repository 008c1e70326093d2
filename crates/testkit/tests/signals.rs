//! Whoever ends the demo, at any moment and by whatever signal, finds nothing of it left.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use quern_testkit::{eventually, repository};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take, the first compilation of the contracts included. Only a broken system needs it.
const PATIENCE: Duration = Duration::from_secs(300);

/// A program whose children, and theirs, carry a mark in their environment by which they are found when it is gone.
struct Marked {
    child: Child,
    folder: TempDir,
}

impl Marked {
    /// Starts a command with a folder for temporary files of its own, the path of which is the mark.
    fn start(command: &mut Command, folder: TempDir) -> Self {
        let child = command.env("TMPDIR", folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, folder }
    }

    /// Command lines of all that runs with the mark.
    fn running(&self) -> Vec<String> {
        let mark = format!("TMPDIR={}", self.folder.path().display());
        let is_marked = |environment: &[u8]| environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes());
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        // One that ends meanwhile, or is another user's, is none of ours.
        let ours = processes.filter(|process| fs::read(process.join("environ")).is_ok_and(|environment| is_marked(&environment)));
        ours.filter_map(|process| fs::read(process.join("cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| !line.is_empty())
            .collect()
    }

    /// Waits until a command line with this text runs.
    fn wait_for(&mut self, text: &str) {
        let running = eventually(&format!("{text:?} to run"), PATIENCE, || {
            assert!(self.child.try_wait()?.is_none(), "it ended before {text:?} ran");
            Ok(self.running().iter().any(|line| line.contains(text)).then_some(()))
        });
        running.unwrap();
    }

    /// Sends a signal to the program alone.
    fn signal(&self, signal: &str) -> bool {
        let kill = ["-c", "kill -s \"$0\" \"$1\"", signal, &self.child.id().to_string()];
        Command::new("bash").args(kill).status().is_ok_and(|status| status.success())
    }

    /// Sends a signal to the program alone, and waits for its end.
    fn end(&mut self, signal: &str) -> ExitStatus {
        assert!(self.signal(signal), "no signal could be sent");
        eventually("it to end", PATIENCE, || Ok(self.child.try_wait()?)).unwrap()
    }

    /// Everything with the mark is gone.
    fn assert_nothing_runs(&self, when: &str) {
        let gone = eventually("everything to be gone", Duration::from_secs(5), || Ok(self.running().is_empty().then_some(())));
        assert!(gone.is_ok(), "{when}: {:?}", self.running());
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        // After a failure: asked to end, it takes its children along; killed, it could not.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("TERM");
            let _ = eventually("it to end", PATIENCE, || Ok(self.child.try_wait()?));
        }
        // One that has ended already cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn demo_ended_at_any_moment_leaves_no_process_no_file_and_no_old_report() {
    for (moment, signal) in [
        ("bin/anvil", "INT"),
        ("scripts/contracts-deploy", "TERM"),
        ("bin/forge", "INT"),
        ("bin/forge", "TERM"),
        ("model register", "HUP"),
        ("worker run", "TERM"),
        (" embed ", "INT"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (report, text) = (folder.path().join("report.json"), folder.path().join("text"));
        fs::write(&report, r#"{"ok":true}"#).unwrap();
        fs::write(&text, "one\ntwo\n").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_quern-demo"));
        command.arg("--text").arg(&text).arg("--report").arg(&report);
        let mut demo = Marked::start(&mut command, folder);
        demo.wait_for(moment);
        assert_eq!(demo.end(signal).code(), Some(130), "{signal} at {moment}");
        demo.assert_nothing_runs(&format!("{signal} at {moment}"));
        let said: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert_eq!(said["ok"], false, "{signal} at {moment}");
        let mut left: Vec<_> = fs::read_dir(demo.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["report.json", "text"], "{signal} at {moment}");
    }
}

#[test]
fn script_of_the_demo_ended_while_it_sets_up_leaves_no_process_and_no_old_report() {
    let folder = tempfile::tempdir().unwrap();
    let (report, cargo) = (folder.path().join("report.json"), folder.path().join("cargo"));
    fs::write(&report, r#"{"ok":true}"#).unwrap();
    // A build that takes its time, in a child of its own.
    fs::write(&cargo, "#!/bin/sh\ncase $1 in --version) echo cargo 1.95.0 ;; *) sleep 600; exit 1 ;; esac\n").unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new(repository().join("scripts/demo"));
    command.arg("--report").arg(&report).env("PATH", format!("{}:{path}", folder.path().display()));
    let mut script = Marked::start(&mut command, folder);
    script.wait_for("sleep 600");
    assert_eq!(script.end("TERM").code(), Some(130));
    script.assert_nothing_runs("while it builds");
    assert!(!report.exists());
}
