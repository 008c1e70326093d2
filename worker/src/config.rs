//! What a worker is told from outside. Terms of the protocol are not here: they are read from the contracts.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, time::Duration};

use quern_bindings::Prices;
use quern_chain::{ClientConfig, deployment::Deployment, keys::Key};
use quern_types::{Address, Head, ModelId};

use crate::{Error, Result, fault::CrashPoint};

/// Options of a worker. [`Config::new`] takes what has no default; everything else may be changed before [`crate::run`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the journal, the status file and, unless [`Config::store_dir`] says otherwise, the content store.
    pub data_dir: PathBuf,
    /// How to reach the chain.
    pub chain: ClientConfig,
    /// Which contracts.
    pub deployment: Deployment,
    /// The provider's owner address: whose stake is locked and who is paid.
    pub provider: Address,
    /// The operator key: claims, signs receipts, pays gas. It can never move the provider's money.
    pub operator: Key,
    /// Packages of the models to serve. All are verified, every hash of them, before the worker takes its first job; one that is not sound stops it.
    pub packages: Vec<PathBuf>,

    /// Least prices per model, in the token's smallest unit: what is left of a fee after the publisher's royalty. A model that is not here is served at the provider's own listing on the chain.
    pub prices: HashMap<ModelId, Prices>,
    /// Least prices of models that are neither in [`Config::prices`] nor listed on the chain. Default none: such models are not served, because
    /// working for nothing must be somebody's decision.
    pub default_prices: Option<Prices>,

    /// Threads that compute. Default: all processors of the machine.
    pub threads: usize,
    /// Most jobs claimed and not yet submitted. Default 8: generate jobs of a model are computed side by side, in hardly more time than one; each locks
    /// stake, and what is claimed and not delivered costs a penalty, so more is a risk that must be chosen.
    pub max_jobs: usize,
    /// Longest input that is taken, in ids. Default 8,388,608 (32 MiB): it is held in memory while the job is computed.
    pub max_input_len: u64,
    /// Most ids that all outputs of a job may have together. Default 4,194,304: they are held in memory until they are stored.
    pub max_output_len: u64,
    /// Bytes that the keys and values of all generate jobs in hand may take together: a job with a longer sequence is not claimed, and as many sequences
    /// are computed side by side as fit. Default: half of the memory that is free at the start.
    pub kv_limit_bytes: Option<u64>,
    /// Seconds before the delivery deadline that are kept free for storing, submitting and being included. Default 20: ten blocks of an OP Stack chain.
    pub margin_secs: u64,
    /// Where a posted job must stand before it is claimed. Default `latest`: a reorganisation that takes the job back takes the claim back with it, so only
    /// work is lost; `safe` for jobs whose work costs more than that.
    pub begin_at: Head,
    /// Native balance of the operator, in wei, below which no job is claimed. Default 10^15 (0.001 of the coin): the submission and the completion of
    /// claimed jobs must be paid from it.
    pub gas_reserve_wei: u128,
    /// How long finished submissions wait for others, so that one transaction completes many. Default 2 s, one block.
    pub completion_wait: Duration,
    /// Most jobs that one transaction completes. Default 32: about 3 million gas.
    pub completions_per_tx: usize,

    /// Folder of the content store; two processes of one machine may share one. Default: `store` in [`Config::data_dir`].
    pub store_dir: Option<PathBuf>,
    /// Most bytes of the content store. Default 64 GiB.
    pub store_limit_bytes: u64,
    /// Where this machine serves its content (Trustless Gateway), so that clients and auditors can fetch outputs. Default none: then something else must
    /// serve the store, such as an IPFS node.
    pub listen: Option<SocketAddr>,
    /// The address under which others reach it; announced on the chain where the provider's announcement there differs. Default none: nothing is announced.
    pub public_url: Option<String>,
    /// Gateways that inputs are fetched from, in order of preference. Default none: then the network of the IPFS node in [`Config::kubo`] is asked, and
    /// without a node only what is in the store already can be taken.
    pub gateways: Vec<String>,
    /// Longest time for one block from one gateway. Default 30 s.
    pub fetch_timeout: Duration,
    /// HTTP API of an IPFS node (Kubo) that gets a pinned copy of every output, and through which inputs are fetched where there is no gateway. The store
    /// of this machine stays the one that keeps: no deadline hangs on the node. Default none.
    pub kubo: Option<String>,
    /// Whether inputs and outputs are kept after the job is over and finalized. Default false: they are unpinned, and go with the next collection.
    pub keep_content: bool,

    /// Watts of one busy processor core, for the estimate of energy where the machine has no counter that can be read. Default 12: a server core at full
    /// load with its share of memory and losses (a 2 x 64-core machine of 2022 at about 1.5 kW).
    pub watts_per_core: f64,
    /// Whether to expire and refund jobs of others, and complete them, when their time is over; costs gas and earns nothing. Default false.
    pub chores: bool,
    /// Where to kill the process on purpose: only for tests. Default none.
    pub crash: Option<CrashPoint>,
}

impl Config {
    /// A configuration with every default.
    pub fn new(
        data_dir: PathBuf,
        chain: ClientConfig,
        deployment: Deployment,
        provider: Address,
        operator: Key,
        packages: Vec<PathBuf>,
    ) -> Self {
        Self {
            data_dir,
            chain,
            deployment,
            provider,
            operator,
            packages,
            prices: HashMap::new(),
            default_prices: None,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            max_jobs: 8,
            max_input_len: 8 << 20,
            max_output_len: 4 << 20,
            kv_limit_bytes: None,
            margin_secs: 20,
            begin_at: Head::Latest,
            gas_reserve_wei: 1_000_000_000_000_000,
            completion_wait: Duration::from_secs(2),
            completions_per_tx: 32,
            store_dir: None,
            store_limit_bytes: 64 << 30,
            listen: None,
            public_url: None,
            gateways: Vec::new(),
            fetch_timeout: Duration::from_secs(30),
            kubo: None,
            keep_content: false,
            watts_per_core: 12.0,
            chores: false,
            crash: None,
        }
    }

    /// Checks what can be checked without the chain.
    ///
    /// # Errors
    /// [`Error::Config`] with the first option that cannot be used.
    pub fn validate(&self) -> Result<()> {
        let refuse = |option, fault: &str| Err(Error::Config { option, fault: fault.into() });
        if self.provider.is_zero() {
            return refuse("--provider", "is the zero address; give the provider's owner address");
        }
        if self.packages.is_empty() {
            return refuse("--package", "is missing: name at least one package (quern model import makes one)");
        }
        if self.threads == 0 {
            return refuse("--threads", "is 0; at least 1 thread must compute");
        }
        if self.max_jobs == 0 {
            return refuse("--max-jobs", "is 0; at least 1");
        }
        if self.completions_per_tx == 0 || self.completions_per_tx > 200 {
            return refuse("--completions-per-tx", "must be 1 to 200: more do not fit a block");
        }
        if !self.watts_per_core.is_finite() || self.watts_per_core <= 0.0 {
            return refuse("--watts-per-core", "must be more than 0");
        }
        if self.chain.chain_id != self.deployment.chain_id {
            return refuse("--deployment", "is of another chain than the RPC endpoint");
        }
        match &self.public_url {
            Some(url) if !(url.starts_with("http://") || url.starts_with("https://")) => {
                refuse("--public-url", "must begin with http:// or https://")
            }
            Some(url) if url.len() > 256 => refuse("--public-url", "is longer than the 256 bytes that the registry takes"),
            _ => Ok(()),
        }
    }

    pub(crate) fn store_dir(&self) -> PathBuf {
        self.store_dir.clone().unwrap_or_else(|| self.data_dir.join("store"))
    }
}
