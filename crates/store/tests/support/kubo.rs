//! A real Kubo on loopback, without a network beyond it, in a directory of its own.
//!
//! The binary is target/tools/bin/ipfs of the workspace (scripts/install-kubo puts it there) or what `QUERN_IPFS` names.
#![allow(clippy::unwrap_used)]

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use quern_store::{KuboConfig, KuboReach, KuboStore};
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(120);

/// The binary; none, with a line that says so, where a person has not installed it. In CI that is a failure.
pub(crate) fn binary(test: &str) -> Option<PathBuf> {
    let named = env::var_os("QUERN_IPFS").map(PathBuf::from);
    if let Some(path) = named {
        assert!(path.is_file(), "QUERN_IPFS names {}, which is not there", path.display());
        return Some(path);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/bin/ipfs");
    if path.is_file() {
        return Some(path);
    }
    let missing = format!("NOT RUN: {test} (no Kubo: run scripts/install-kubo, needs Go)");
    assert!(env::var("CI").as_deref() != Ok("true"), "{missing}");
    // Not eprintln!, which the test harness swallows where the test passes.
    writeln!(std::io::stderr().lock(), "{missing}").unwrap();
    None
}

/// A node, and its daemon while it runs.
pub(crate) struct Kubo {
    binary: PathBuf,
    repository: TempDir,
    daemon: Option<Child>,
    mode: &'static str,
}

impl Kubo {
    /// A node that speaks to nobody.
    pub(crate) fn start(binary: PathBuf) -> Self {
        Self::start_in(binary, "--offline")
    }

    /// A node that speaks to the nodes that it is told to connect to, and asks nobody else for them.
    pub(crate) fn start_online(binary: PathBuf) -> Self {
        Self::start_in(binary, "--routing=none")
    }

    fn start_in(binary: PathBuf, mode: &'static str) -> Self {
        let mut kubo = Self { binary, repository: tempfile::tempdir().unwrap(), daemon: None, mode };
        // `test` listens on free ports of loopback only and knows no peers; `autoconf-off` fetches no settings.
        kubo.ipfs(&["init", "--profile=test,autoconf-off,unixfs-v1-2025"], b"");
        kubo.ipfs(&["config", "--json", "Gateway.NoFetch", "true"], b"");
        kubo.resume();
        kubo
    }

    /// Starts the daemon and returns when it says that it is ready.
    pub(crate) fn resume(&mut self) {
        assert!(self.daemon.is_none());
        let mut command = self.command(&["daemon", self.mode]);
        let mut daemon = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let output = BufReader::new(daemon.stdout.take().unwrap());
        self.daemon = Some(daemon);
        let (say, said) = mpsc::channel();
        thread::spawn(move || {
            // Reads to the end, so that the daemon never waits for a full pipe.
            for line in output.lines().map_while(Result::ok) {
                if line.contains("Daemon is ready") {
                    say.send(()).ok();
                }
            }
        });
        said.recv_timeout(START_LIMIT).expect("the Kubo daemon did not become ready");
    }

    pub(crate) fn stop(&mut self) {
        self.ipfs(&["shutdown"], b"");
        self.daemon.take().unwrap().wait().unwrap();
    }

    /// As a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    /// Runs a command of Kubo's own client and returns what it prints.
    pub(crate) fn ipfs(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeding = thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "ipfs {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        feeding.join().unwrap().unwrap();
        output.stdout
    }

    /// As [`Kubo::ipfs`], for one line of text.
    pub(crate) fn line(&self, arguments: &[&str], input: &[u8]) -> String {
        String::from_utf8(self.ipfs(arguments, input)).unwrap().trim().to_owned()
    }

    pub(crate) async fn store(&self) -> KuboStore {
        self.store_of(KuboReach::Node, 30_000).await
    }

    pub(crate) async fn store_of(&self, reach: KuboReach, call_timeout_ms: u64) -> KuboStore {
        let config = KuboConfig { address: self.address("api"), call_timeout_ms, reach };
        KuboStore::connect(&config).await.unwrap()
    }

    pub(crate) fn gateway(&self) -> String {
        self.address("gateway")
    }

    /// Kubo writes down which free port it got: the RPC as a multiaddr, the gateway as a URL.
    fn address(&self, file: &str) -> String {
        let written = std::fs::read_to_string(self.repository.path().join(file)).unwrap();
        match written.trim().strip_prefix("/ip4/127.0.0.1/tcp/") {
            Some(port) => format!("http://127.0.0.1:{port}"),
            None => written.trim().to_owned(),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("IPFS_PATH", self.repository.path()).env_remove("IPFS_PROFILE");
        command
    }
}

impl Drop for Kubo {
    fn drop(&mut self) {
        self.kill();
    }
}
