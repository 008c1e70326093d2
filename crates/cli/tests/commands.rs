//! The binary as a user meets it, where no chain is needed: exit codes, the form of errors, content between two homes.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

/// The id of a job.
const JOB: &str = "0x1212121212121212121212121212121212121212121212121212121212121212";

/// A home directory of its own.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quern"));
        command.arg("--home").arg(self.0.path()).args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a command that must succeed printed.
    fn stdout(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.stdout(args)).unwrap()
    }

    /// The error object of a command that must fail, and its exit code.
    fn failure(&self, args: &[&str]) -> (i32, Value) {
        let output = self.run(args);
        assert!(output.stdout.is_empty(), "{args:?} printed a result: {}", String::from_utf8_lossy(&output.stdout));
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        (output.status.code().unwrap(), error["error"].clone())
    }
}

/// `quern store serve` on a free port. Killed when dropped.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(home: &Home) -> Self {
        let mut process = home.command(&["store", "serve", "--listen", "127.0.0.1:0", "--json"]).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let listening: Value = serde_json::from_str(&line).unwrap();
        Self { url: format!("http://{}", listening["listen"].as_str().unwrap()), process }
    }

    #[cfg(unix)]
    fn terminate(mut self) -> Option<i32> {
        assert!(Command::new("kill").arg(self.process.id().to_string()).status().unwrap().success());
        self.process.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn what_is_missing_is_named_with_what_to_do_and_exit_code_2() {
    let home = Home::new();
    fs::write(home.path("pw"), "pw\n").unwrap();
    for args in [
        vec!["wallet", "balance"],
        vec!["provider", "list"],
        vec!["audit", "ledger"],
        vec!["audit", "job", JOB],
        vec!["indexer", "run", "--listen", "127.0.0.1:0"],
    ] {
        let args: Vec<&str> = args.into_iter().chain(["--json", "--rpc", "http://127.0.0.1:1"]).collect();
        let (code, error) = home.failure(&args);
        let what = error["what"].as_str().unwrap();
        // The first has no key either.
        assert!(what.contains("deployment") || what.contains("key"), "{args:?}: {what}");
        assert!(!error["do"].as_str().unwrap().is_empty(), "{args:?}");
        assert_eq!(error["exit"], code);
    }
    let (code, _) = home.failure(&["provider", "list", "--json"]);
    assert_eq!(code, 2);
}

#[test]
fn amount_and_address_that_are_none_never_reach_a_chain() {
    let home = Home::new();
    for args in [
        ["wallet", "deposit", "0"],
        ["wallet", "deposit", "-1"],
        ["provider", "stake", "1,5"],
        ["wallet", "balance", "0xf39fd6e51aad88F6F4ce6aB8827279cffFb92266"],
        ["audit", "job", "0x12"],
    ] {
        let output = home.run(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn completion_script_of_every_shell_knows_the_commands() {
    let home = Home::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = home.stdout(&["completions", shell]);
        for command in ["embed", "resume", "unstake", "operator", "completions"] {
            assert!(script.contains(command), "{shell} knows no {command}");
        }
    }
    // As the shell itself asks, for `quern job re`.
    let script = home.path("quern.bash");
    fs::write(&script, home.stdout(&["completions", "bash"])).unwrap();
    let ask = "source \"$0\"; COMP_WORDS=(quern job re) COMP_CWORD=2; _quern quern re job; echo \"${COMPREPLY[@]}\"";
    let answer = Command::new("bash").args(["-c", ask]).arg(&script).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "result resume refund", "{}", String::from_utf8_lossy(&answer.stderr));
    assert_eq!(home.run(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn content_goes_from_home_to_home_through_a_gateway_and_is_verified() {
    let (alice, bob) = (Home::new(), Home::new());
    // More than one block, so that there is a tree.
    let content: Vec<u8> = (0..3_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(alice.path("file"), &content).unwrap();
    let put = alice.json(&["store", "put", alice.path("file").to_str().unwrap(), "--json"]);
    let cid = put["cid"].as_str().unwrap();
    assert_eq!(put["bytes"], content.len());
    assert_eq!(alice.json(&["store", "list", "--json"])["cid"], cid);

    let (code, error) = bob.failure(&["store", "get", cid, "--out", bob.path("file").to_str().unwrap(), "--json"]);
    assert_eq!(code, 1);
    assert!(error["do"].as_str().unwrap().contains("--gateway"), "{error}");
    assert!(!bob.path("file").exists());

    let server = Server::start(&alice);
    let args = ["store", "get", cid, "--gateway", &server.url];
    let output = bob.run(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, content);
    let limited = bob.run(&["store", "get", cid, "--limit-bytes", "1000"]);
    assert!(!limited.status.success() && limited.stdout.is_empty(), "more than allowed was fetched");

    // Kept from now on, without the gateway.
    bob.stdout(&["store", "pin", cid]);
    #[cfg(unix)]
    assert_eq!(server.terminate(), Some(0), "a server that is told to stop has done its work");
    bob.stdout(&["store", "get", cid, "--out", bob.path("file").to_str().unwrap()]);
    assert_eq!(fs::read(bob.path("file")).unwrap(), content);
    assert_eq!(bob.json(&["store", "unpin", cid, "--json"])["wasPinned"], true);
    assert_eq!(bob.json(&["store", "gc", "--json"])["removedBlocks"], 0, "what was put within the hour stays");
}

#[test]
fn damaged_content_is_neither_printed_nor_written() {
    let home = Home::new();
    let mut put = home.command(&["store", "put", "-", "--json"]).stdin(Stdio::piped()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(b"right").unwrap();
    let put: Value = serde_json::from_slice(&put.wait_with_output().unwrap().stdout).unwrap();
    let cid = put["cid"].as_str().unwrap();
    let mut damaged = 0;
    for file in files(&home.path("store")) {
        if fs::read(&file).unwrap() == b"right" {
            fs::write(&file, b"wrong").unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);
    let out = home.path("out");
    for args in [vec!["store", "get", cid], vec!["store", "get", cid, "--out", out.to_str().unwrap()]] {
        let output = home.run(&args);
        assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}");
    }
    assert!(!out.exists());
    let listed = home.json(&["store", "list", "--json"]);
    assert!(listed["bytes"].is_null() && listed["problem"].is_string(), "{listed}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
