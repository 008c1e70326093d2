//! A market on a devnet: actors with their own homes and keys, each driven through the public commands of `quern`.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    devnet::{Account, Devnet, DevnetOptions},
    process::{Daemon, output, run},
    tools::{minilm_package, quern, tool},
    wait::eventually,
};

/// Password of every key in a market of a test; nobody else's.
const PASSWORD: &str = "a devnet's password protects nothing";
/// Gas money of an operator key that is not one of the devnet's accounts, in wei.
const OPERATOR_GAS: &str = "10000000000000000000";

/// Somebody with a home directory, a key, a content store and an opinion about which node to ask.
#[derive(Debug)]
pub struct Actor {
    /// What it is called in logs and failures.
    pub name: String,
    /// Its `--home`.
    pub home: PathBuf,
    /// The address of its key.
    pub address: String,
    /// Where its content store is served.
    pub gateway: String,
    rpc: String,
}

impl Actor {
    /// Sets up a home for an account of the devnet.
    ///
    /// # Errors
    /// Whatever `quern init` or `quern key import` says.
    pub fn new(name: &str, account: Account, devnet: &Devnet, folder: &Path) -> Result<Self> {
        let port = free_port()?;
        let home = folder.join(name);
        std::fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
        let actor = Self {
            name: name.to_owned(),
            home,
            address: account.address.to_owned(),
            gateway: format!("http://127.0.0.1:{port}"),
            rpc: devnet.url(),
        };
        let deployment = devnet.deployment();
        let listen = format!("127.0.0.1:{port}");
        let (rpc, deployment) = (actor.rpc.as_str(), path(&deployment)?);
        actor.quern(&["init", "--rpc", rpc, "--deployment", deployment, "--key", name, "--listen", &listen])?;
        actor.quern_with_input(&["key", "import", name], account.key)?;
        Ok(actor)
    }

    /// The same actor asking another node.
    #[must_use]
    pub fn asking(&self, rpc: &str) -> Self {
        Self {
            name: self.name.clone(),
            home: self.home.clone(),
            address: self.address.clone(),
            gateway: self.gateway.clone(),
            rpc: rpc.to_owned(),
        }
    }

    /// A `quern` command of this actor, not started yet.
    ///
    /// # Errors
    /// If the binary is not built.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(quern()?);
        command.args(["--home", path(&self.home)?, "--rpc", &self.rpc]).args(args).env("QUERN_PASSWORD", PASSWORD).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command with `--json` and returns the objects it printed.
    ///
    /// # Errors
    /// If it ends with another status than 0, or prints something that is not JSON.
    pub fn quern(&self, args: &[&str]) -> Result<Vec<Value>> {
        self.quern_with_input(args, "")
    }

    /// Runs a command that prints exactly one object.
    ///
    /// # Errors
    /// As [`Self::quern`], or if it prints none or more.
    pub fn quern_one(&self, args: &[&str]) -> Result<Value> {
        let mut objects = self.quern(args)?;
        ensure!(objects.len() == 1, "{} quern {args:?} printed {} objects", self.name, objects.len());
        Ok(objects.remove(0))
    }

    /// Runs a command that must fail, and returns its exit code and what it said.
    ///
    /// # Errors
    /// If it succeeds or cannot be started.
    pub fn quern_fails(&self, args: &[&str]) -> Result<(i32, String)> {
        let output = output(self.command(args)?.arg("--json").stderr(Stdio::piped()), "")?;
        ensure!(!output.status.success(), "{} quern {args:?} succeeded: {}", self.name, String::from_utf8_lossy(&output.stdout));
        let code = output.status.code().with_context(|| format!("{} quern {args:?} ended with {}", self.name, output.status))?;
        Ok((code, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// As [`Self::quern`], with text on standard input.
    ///
    /// # Errors
    /// As [`Self::quern`].
    pub fn quern_with_input(&self, args: &[&str], input: &str) -> Result<Vec<Value>> {
        let output = output(self.command(args)?.arg("--json").stderr(Stdio::piped()), input)?;
        self.objects(args, &output)
    }

    fn objects(&self, args: &[&str], output: &Output) -> Result<Vec<Value>> {
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("{}: quern {args:?} ended with {}:\n{stdout}{stderr}", self.name, output.status);
        }
        let lines = stdout.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| serde_json::from_str(line).with_context(|| format!("{}: quern {args:?} printed {line:?}", self.name))).collect()
    }

    /// Starts a long-running command.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, args: &[&str]) -> Result<Daemon> {
        let log = self.home.join(format!("{}.log", args.first().copied().unwrap_or("quern")));
        Daemon::spawn(&format!("{} {}", self.name, args.join(" ")), &mut self.command(args)?, &log)
    }
}

/// A devnet with contracts, money in the right hands, and all-MiniLM-L6-v2 registered.
#[derive(Debug)]
pub struct Market {
    /// The chain.
    pub devnet: Devnet,
    /// Holds the token's supply; funds the others.
    pub treasury: Actor,
    /// Published the model.
    pub publisher: Actor,
    /// The model.
    pub model_id: String,
}

impl Market {
    /// Starts a devnet, deploys, and registers the model with this royalty in 1/10,000.
    ///
    /// # Errors
    /// Whatever step fails.
    pub fn start(options: DevnetOptions, royalty_bps: u16) -> Result<Self> {
        let devnet = Devnet::with_contracts(options)?;
        let treasury = Actor::new("treasury", devnet.deployer(), &devnet, devnet.folder())?;
        let publisher = Actor::new("publisher", devnet.account(4), &devnet, devnet.folder())?;
        let mut market = Self { devnet, treasury, publisher, model_id: String::new() };
        market.model_id = market.register(&minilm_package()?, "all-MiniLM-L6-v2", royalty_bps)?;
        Ok(market)
    }

    /// Registers a package under a name with a royalty in 1/10,000, and returns the model's id.
    ///
    /// # Errors
    /// If the registration fails.
    pub fn register(&self, package: &Path, name: &str, royalty_bps: u16) -> Result<String> {
        let args = ["model", "register", path(package)?, "--name", name, "--royalty-bps", &royalty_bps.to_string()];
        text(&self.publisher.quern_one(&args)?, "modelId")
    }

    /// A client with `tokens` whole tokens free in the Ledger.
    ///
    /// # Errors
    /// Whatever step fails.
    pub fn client(&self, name: &str, account: Account, tokens: u32) -> Result<Actor> {
        let client = Actor::new(name, account, &self.devnet, self.devnet.folder())?;
        self.fund(&client, tokens)?;
        client.quern(&["wallet", "deposit", &tokens.to_string()])?;
        Ok(client)
    }

    /// A provider with `tokens` whole tokens at stake, its gateway announced, and an operator with gas: (owner, operator). The operator's key is
    /// a new one; `operator.quern` and `operator.spawn` work with it.
    ///
    /// # Errors
    /// Whatever step fails.
    pub fn provider(&self, name: &str, account: Account, tokens: u32) -> Result<(Actor, Actor)> {
        let owner = Actor::new(name, account, &self.devnet, self.devnet.folder())?;
        let operator = self.operator(&format!("{name}-operator"))?;
        self.fund(&owner, tokens)?;
        owner.quern(&["wallet", "deposit", &tokens.to_string()])?;
        owner.quern(&["provider", "stake", &tokens.to_string()])?;
        owner.quern(&["provider", "operator", "set", &operator.address])?;
        owner.quern(&["provider", "announce", &operator.gateway])?;
        Ok((owner, operator))
    }

    /// A home with a fresh key and some gas.
    ///
    /// # Errors
    /// Whatever step fails.
    pub fn operator(&self, name: &str) -> Result<Actor> {
        // A well-known account is only a start: `key new` then replaces its name in the configuration.
        let mut operator = Actor::new(name, self.devnet.deployer(), &self.devnet, self.devnet.folder())?;
        let made = operator.quern_one(&["key", "new", "fresh"])?;
        operator.address = text(&made, "address")?;
        let (rpc, deployment) = (self.devnet.url(), self.devnet.deployment());
        let listen = operator.gateway.trim_start_matches("http://").to_owned();
        operator.quern(&["init", "--force", "--rpc", &rpc, "--deployment", path(&deployment)?, "--key", "fresh", "--listen", &listen])?;
        self.cast(&["send", &operator.address, "--value", OPERATOR_GAS])?;
        Ok(operator)
    }

    /// Sends whole tokens from the treasury.
    ///
    /// # Errors
    /// If the transfer fails.
    pub fn fund(&self, actor: &Actor, tokens: u32) -> Result<()> {
        let deployment: Value = serde_json::from_slice(&std::fs::read(self.devnet.deployment())?)?;
        let token =
            deployment.pointer("/contracts/QuernToken/address").and_then(Value::as_str).context("the deployment names no QuernToken")?;
        self.cast(&["send", token, "transfer(address,uint256)(bool)", &actor.address, &format!("{tokens}000000000000000000")])
    }

    fn cast(&self, args: &[&str]) -> Result<()> {
        let (url, key) = (self.devnet.url(), self.devnet.deployer().key);
        let tail = ["--rpc-url", &url, "--private-key", key];
        run(tool("cast")?, &[args, &tail].concat(), |command| command)?;
        Ok(())
    }

    /// Starts an indexer: the process, and its API once that answers.
    ///
    /// # Errors
    /// If the API does not answer within 60 seconds.
    pub fn indexer(&self) -> Result<(Daemon, Api)> {
        let listen = format!("127.0.0.1:{}", free_port()?);
        let database = self.devnet.folder().join("index.sqlite");
        let daemon = self.treasury.spawn(&["indexer", "run", "--listen", &listen, "--db", path(&database)?])?;
        let api = Api { url: format!("http://{listen}"), http: reqwest::blocking::Client::new() };
        eventually("the indexer to answer", Duration::from_secs(60), || Ok(api.get("/v1/status").ok()))?;
        Ok((daemon, api))
    }

    /// Starts the worker of an operator.
    ///
    /// # Errors
    /// If it does not say that it is ready within 60 seconds.
    pub fn worker(&self, owner: &Actor, operator: &Actor, input_gateways: &[&Actor], more: &[&str]) -> Result<Daemon> {
        let package = minilm_package()?;
        let mut args = vec!["worker", "run", "--provider", owner.address.as_str(), "--package", path(&package)?, "--price-item", "0.001"];
        for actor in input_gateways {
            args.extend(["--gateway", actor.gateway.as_str()]);
        }
        args.extend(more);
        let mut worker = operator.spawn(&args)?;
        worker.wait_for_line("worker.ready", Duration::from_secs(60))?;
        Ok(worker)
    }
}

/// The indexer's HTTP API.
#[derive(Debug)]
pub struct Api {
    url: String,
    http: reqwest::blocking::Client,
}

impl Api {
    /// The JSON at a path.
    ///
    /// # Errors
    /// If the answer is no success or no JSON.
    pub fn get(&self, path: &str) -> Result<Value> {
        let url = format!("{}{path}", self.url);
        let response = self.http.get(&url).send().with_context(|| format!("asking {url}"))?;
        let status = response.status();
        let body = response.text()?;
        ensure!(status.is_success(), "{url} answered {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("{url} answered {body:?}"))
    }
}

/// A text field of an object.
///
/// # Errors
/// If it is not there.
pub fn text(object: &Value, field: &str) -> Result<String> {
    object.get(field).and_then(Value::as_str).map(str::to_owned).with_context(|| format!("no text {field:?} in {object}"))
}

/// A path as an argument.
fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// A port of the loopback interface that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("looking for a free port")?.local_addr()?.port())
}
