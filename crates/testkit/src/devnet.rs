//! A local OP-mode L2 with the contracts on it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    process::{Daemon, create, run},
    tools::{repository, tool},
};

/// How a devnet behaves.
#[derive(Debug, Clone, Copy)]
pub struct DevnetOptions {
    /// Seconds between blocks; `None`: a block per transaction.
    pub block_secs: Option<u64>,
    /// Blocks of an epoch: safe is that far behind latest, finalized twice as far.
    pub epoch_blocks: u64,
}

impl Default for DevnetOptions {
    fn default() -> Self {
        Self { block_secs: Some(1), epoch_blocks: 2 }
    }
}

/// A funded account of the devnet. Its key is public knowledge: anvil prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// 0x and 40 digits.
    pub address: &'static str,
    /// 0x and 64 digits.
    pub key: &'static str,
}

/// Accounts of the well-known development mnemonic ("test test … junk").
const ACCOUNTS: [Account; 6] = [
    Account {
        address: "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
        key: "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    },
    Account {
        address: "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        key: "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    },
    Account {
        address: "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
        key: "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    },
    Account {
        address: "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
        key: "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    },
    Account {
        address: "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65",
        key: "0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    },
    Account {
        address: "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc",
        key: "0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
    },
];

/// How long anvil may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running local chain. Dropping it stops the node and removes its files.
#[derive(Debug)]
pub struct Devnet {
    node: Option<Daemon>,
    port: u16,
    options: DevnetOptions,
    folder: TempDir,
    http: reqwest::blocking::Client,
}

impl Devnet {
    /// Chain id of the devnet.
    pub const CHAIN_ID: u64 = 901;

    /// Starts a node on a free port. No contract is on it yet.
    ///
    /// # Errors
    /// If anvil is not installed or does not start.
    pub fn start(options: DevnetOptions) -> Result<Self> {
        let folder = TempDir::with_prefix("quern-devnet-").context("creating the devnet's folder")?;
        let mut devnet = Self { node: None, port: 0, options, folder, http: reqwest::blocking::Client::new() };
        devnet.start_node()?;
        Ok(devnet)
    }

    /// Starts a node and deploys the contracts on it.
    ///
    /// # Errors
    /// If one of the two fails.
    pub fn with_contracts(options: DevnetOptions) -> Result<Self> {
        let devnet = Self::start(options)?;
        devnet.deploy()?;
        Ok(devnet)
    }

    fn start_node(&mut self) -> Result<()> {
        let mut command = Command::new(tool("anvil")?);
        command.args(["-n", "optimism", "--order", "fifo", "--preserve-historical-states", "--gas-limit", "60000000"]);
        command.args(["--chain-id", &Self::CHAIN_ID.to_string(), "--port", &self.port.to_string()]);
        command.args(["--slots-in-an-epoch", &self.options.epoch_blocks.to_string()]);
        command.arg("--state").arg(self.folder.path().join("state.json"));
        if let Some(secs) = self.options.block_secs {
            command.args(["--block-time", &secs.to_string(), "--mixed-mining"]);
        }
        let log = self.folder.path().join("anvil.log");
        create(&log)?;
        let mut node = Daemon::spawn("anvil", &mut command, &log)?;
        let line = node.wait_for_line("Listening on ", START_LIMIT)?;
        self.port = line.rsplit(':').next().and_then(|port| port.trim().parse().ok()).with_context(|| format!("no port in {line:?}"))?;
        self.node = Some(node);
        Ok(())
    }

    /// Stops the node as an operator would (SIGTERM): it keeps its state.
    ///
    /// # Errors
    /// If it does not stop.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut node) = self.node.take() {
            node.terminate()?;
        }
        Ok(())
    }

    /// Starts a stopped node again, on the same port and with the state it had.
    ///
    /// # Errors
    /// If it runs already or does not start.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.node.is_none(), "the node runs already");
        self.start_node()
    }

    /// The node's JSON-RPC endpoint.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A folder that goes with the devnet.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The account that deployed the contracts and holds the token's supply.
    pub const fn deployer(&self) -> Account {
        ACCOUNTS[0]
    }

    /// A funded account for actor `index`, 0 to 4.
    ///
    /// # Panics
    /// Past the last account.
    pub const fn account(&self, index: usize) -> Account {
        ACCOUNTS[index + 1]
    }

    /// The file that the deployment wrote.
    pub fn deployment(&self) -> PathBuf {
        self.folder.path().join(format!("{}.json", Self::CHAIN_ID))
    }

    /// Deploys the contracts with the project's own deployment script and the devnet's parameters.
    ///
    /// # Errors
    /// Whatever the script says.
    pub fn deploy(&self) -> Result<()> {
        let deployment = self.deployment();
        let script = repository().join("scripts/contracts-deploy");
        let config = repository().join("contracts/config/devnet.json");
        run(&script, &[self.url().as_ref(), config.as_os_str(), deployment.as_os_str()], |command| {
            command.env("QUERN_DEPLOYER_KEY", self.deployer().key)
        })?;
        ensure!(deployment.is_file(), "{} wrote no {}", script.display(), deployment.display());
        Ok(())
    }

    /// One JSON-RPC call.
    ///
    /// # Errors
    /// If the node does not answer or answers with an error.
    pub fn rpc(&self, method: &str, params: &Value) -> Result<Value> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let mut answer: Value = self
            .http
            .post(self.url())
            .json(&request)
            .send()
            .and_then(reqwest::blocking::Response::json)
            .with_context(|| format!("calling {method}"))?;
        if let Some(error) = answer.get("error") {
            bail!("{method} {params}: {error}");
        }
        Ok(answer["result"].take())
    }

    /// Height of the newest block.
    ///
    /// # Errors
    /// If the node does not answer.
    pub fn height(&self) -> Result<u64> {
        quantity(&self.rpc("eth_blockNumber", &json!([]))?)
    }

    /// Unix time of the newest block, in seconds.
    ///
    /// # Errors
    /// If the node does not answer.
    pub fn now(&self) -> Result<u64> {
        quantity(&self.rpc("eth_getBlockByNumber", &json!(["latest", false]))?["timestamp"])
    }

    /// Transactions of an account that are in blocks.
    ///
    /// # Errors
    /// If the node does not answer.
    pub fn transactions(&self, address: &str) -> Result<u64> {
        quantity(&self.rpc("eth_getTransactionCount", &json!([address, "latest"]))?)
    }

    /// Mines `blocks` blocks at once.
    ///
    /// # Errors
    /// If the node does not answer.
    pub fn mine(&self, blocks: u64) -> Result<()> {
        self.rpc("anvil_mine", &json!([format!("{blocks:#x}")]))?;
        Ok(())
    }

    /// Lets `secs` seconds pass on the chain, and mines enough blocks that the moment before is finalized.
    ///
    /// # Errors
    /// If the node does not answer.
    pub fn warp(&self, secs: u64) -> Result<()> {
        self.rpc("evm_increaseTime", &json!([format!("{secs:#x}")]))?;
        self.mine(2 * self.options.epoch_blocks + 1)
    }

    /// Replaces the newest `depth` blocks by empty ones.
    ///
    /// # Errors
    /// If the node does not answer.
    pub fn reorg(&self, depth: u64) -> Result<()> {
        self.rpc("anvil_reorg", &json!([depth, []]))?;
        Ok(())
    }
}

/// A JSON-RPC quantity.
fn quantity(value: &Value) -> Result<u64> {
    let text = value.as_str().and_then(|text| text.strip_prefix("0x")).with_context(|| format!("{value} is no quantity"))?;
    u64::from_str_radix(text, 16).with_context(|| format!("{value} is no quantity"))
}
