//! What the stories have in common.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use quern_testkit::{Account, Actor, Answer, Daemon, DevnetOptions, Market, RpcProxy, eventually, minilm_package, text};
use serde_json::Value;

/// How long anything may take. Only a broken system needs it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// One whole token in its smallest unit.
pub(crate) const TOKEN: u128 = 1_000_000_000_000_000_000;

/// Five lines, one of them empty.
pub(crate) const LINES: &str =
    "A quern is a hand mill.\nThe mill turns.\n\nMany small ones instead of one big one.\nWer zahlt, wenn niemand liefert?\n";

/// A market with a client and a provider in it.
pub(crate) struct Story {
    pub(crate) market: Market,
    pub(crate) client: Actor,
    pub(crate) owner: Actor,
    pub(crate) operator: Actor,
}

impl Story {
    /// A block a second, finality far behind: a reorg of some blocks is possible.
    pub(crate) fn begin() -> Result<Self> {
        Self::begin_with(DevnetOptions { block_secs: Some(1), epoch_blocks: 32 })
    }

    pub(crate) fn begin_with(options: DevnetOptions) -> Result<Self> {
        let market = Market::start(options, 250)?;
        let client = market.client("client", market.devnet.account(0), 100)?;
        let (owner, operator) = market.provider("provider", market.devnet.account(1), 100)?;
        Ok(Self { market, client, owner, operator })
    }

    /// The provider's worker, fetching inputs from the client.
    pub(crate) fn worker(&self, more: &[&str]) -> Result<Daemon> {
        self.market.worker(&self.owner, &self.operator, &[&self.client], more)
    }

    /// A second provider: (owner, operator).
    pub(crate) fn rival(&self) -> Result<(Actor, Actor)> {
        self.market.provider("rival", self.rival_account(), 100)
    }

    fn rival_account(&self) -> Account {
        self.market.devnet.account(2)
    }

    /// A file with this text in the client's home.
    pub(crate) fn file(&self, content: &str) -> Result<PathBuf> {
        let path = self.client.home.join("text.txt");
        std::fs::write(&path, content)?;
        Ok(path)
    }

    /// The arguments of `quern embed` for a file.
    pub(crate) fn embed_args(&self, content: &str, more: &[&str]) -> Result<Vec<String>> {
        let (file, package) = (self.file(content)?, minilm_package()?);
        let fixed = ["embed", &file.to_string_lossy(), "--model", &self.market.model_id, "--package", &package.to_string_lossy()]
            .map(str::to_owned);
        let price = ["--item-price", "0.01", "--yes"];
        Ok(fixed.into_iter().chain(price.into_iter().chain(more.iter().copied()).map(str::to_owned)).collect())
    }

    /// Embeds a text and waits for the vectors.
    pub(crate) fn embed(&self, content: &str, more: &[&str]) -> Result<Vec<Value>> {
        let args = self.embed_args(content, more)?;
        self.client.quern(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts embedding a text, without waiting.
    pub(crate) fn start_embedding(&self, content: &str, more: &[&str]) -> Result<Daemon> {
        let args = self.embed_args(content, more)?;
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.push("--json");
        self.client.spawn(&args)
    }

    /// Serves the client's inputs for as long as the result lives.
    pub(crate) fn serve(&self) -> Result<Daemon> {
        let mut server = self.client.spawn(&["store", "serve", "--json"])?;
        server.wait_for_line("\"listen\"", PATIENCE)?;
        Ok(server)
    }

    /// Posts the one job of a text and leaves it to a server: (run, job).
    pub(crate) fn post(&self, content: &str, more: &[&str]) -> Result<(String, String)> {
        let posted = self.embed(content, &[&["--detach"], more].concat())?;
        let [posted] = posted.as_slice() else { anyhow::bail!("detaching printed {posted:?}") };
        ensure!(posted["jobs"].as_array().is_some_and(|jobs| jobs.len() == 1), "not one job: {posted}");
        Ok((text(posted, "run")?, text(&posted["jobs"][0], "id")?))
    }

    /// The client's jobs as its journal and the chain know them.
    pub(crate) fn jobs(&self) -> Result<Vec<Value>> {
        self.client.quern(&["job", "list"])
    }

    /// The only job there is, once it was posted.
    pub(crate) fn only_job(&self) -> Result<String> {
        eventually("a job to be posted", PATIENCE, || {
            let jobs = self.jobs()?;
            ensure!(jobs.len() <= 1, "{} jobs where one was posted", jobs.len());
            jobs.first().filter(|job| job["state"] != "unposted").map(|job| text(job, "id")).transpose()
        })
    }

    /// What the chain says of a job.
    pub(crate) fn job(&self, id: &str) -> Result<Value> {
        self.client.quern_one(&["job", "show", id])
    }

    /// Waits for a job to be in a state. `pass` seconds go by on the chain between two looks.
    pub(crate) fn wait_for_state(&self, id: &str, state: &str, pass: u64) -> Result<Value> {
        eventually(&format!("job {id} to be {state}"), PATIENCE, || {
            let job = self.job(id)?;
            let found = text(&job, "state")?;
            if found == state {
                return Ok(Some(job));
            }
            ensure!(!["completed", "refunded", "slashed"].contains(&found.as_str()), "job {id} is {found}, not {state}");
            if pass > 0 {
                self.market.devnet.warp(pass)?;
            }
            Ok(None)
        })
    }

    /// Waits for a job to be paid; once its receipt stands, its challenge window passes on the chain.
    pub(crate) fn wait_for_payment(&self, id: &str) -> Result<Value> {
        let mut passed = false;
        eventually(&format!("job {id} to be paid"), PATIENCE, || {
            let job = self.job(id)?;
            match text(&job, "state")?.as_str() {
                "completed" => return Ok(Some(job)),
                "submitted" if !passed => {
                    self.market.devnet.warp(5)?;
                    passed = true;
                }
                "refunded" | "slashed" => anyhow::bail!("job {id} is not paid: {job}"),
                _ => {}
            }
            Ok(None)
        })
    }

    /// Transactions of an actor that are in blocks.
    pub(crate) fn transactions(&self, actor: &Actor) -> Result<u64> {
        self.market.devnet.transactions(&actor.address)
    }

    /// The ledger re-derived from events, proven against the newest block: no difference.
    pub(crate) fn audit(&self) -> Result<Value> {
        let verdict = self.client.quern_one(&["audit", "ledger", "--head", "latest"])?;
        ensure!(verdict["ok"] == true, "the ledger audit found {}", verdict["difference"]);
        ensure!(verdict["entries"].as_u64().context("no number of entries")? > 0, "an empty ledger: {verdict}");
        Ok(verdict)
    }

    /// The job recomputed: equal bits.
    pub(crate) fn recompute(&self, id: &str) -> Result<()> {
        let package = minilm_package()?;
        let package = package.to_string_lossy();
        let args = ["audit", "job", id, "--package", &package, "--gateway", &self.operator.gateway, "--gateway", &self.client.gateway];
        let verdict = self.client.quern_one(&args)?;
        ensure!(verdict["equal"] == true, "recomputing {id} found {}", verdict["difference"]);
        Ok(())
    }

    /// A bucket of an actor, in the token's smallest unit.
    pub(crate) fn balance(&self, actor: &Actor, bucket: &str) -> Result<u128> {
        let balance = actor.quern_one(&["wallet", "balance"])?;
        Ok(text(&balance, bucket)?.parse()?)
    }
}

/// The vectors of results, in order.
pub(crate) fn vectors(results: &[Value]) -> Vec<&Value> {
    results.iter().map(|result| &result["vector"]).collect()
}

/// The call that sends a transaction.
const SEND: &str = "eth_sendRawTransaction";

/// The node takes one more transaction and is gone, its answer with it: who sent that one never learns what became of it.
pub(crate) fn take_one_transaction(proxy: &RpcProxy) {
    proxy.set_rule(|method, _, _| if method == SEND { Answer::Down } else { Answer::Honest });
    let taken = AtomicBool::new(false);
    proxy.set_gate(move |method, _| if method == SEND { !taken.swap(true, Ordering::SeqCst) } else { !taken.load(Ordering::SeqCst) });
}

/// Transactions as they were signed.
pub(crate) type Held = Arc<Mutex<Vec<Value>>>;

/// The node takes so many more transactions; those after them are held back, for whoever wants to send them later.
pub(crate) fn hold_transactions(proxy: &RpcProxy, after: usize) -> Held {
    let held = Held::default();
    let (holding, passed) = (held.clone(), Mutex::new(Vec::new()));
    proxy.set_gate(move |method, parameters| {
        let (mut passed, mut holding) = (passed.lock().unwrap(), holding.lock().unwrap());
        // The same one may be sent again and again.
        let known = |all: &[Value]| all.contains(&parameters[0]);
        if method != SEND || known(&passed) {
            return true;
        }
        if passed.len() < after {
            passed.push(parameters[0].clone());
            return true;
        }
        if !known(&holding) {
            holding.push(parameters[0].clone());
        }
        false
    });
    held
}

/// Waits for a transaction to be held back: the first one.
pub(crate) fn wait_for_held(held: &Held) -> Result<Value> {
    eventually("a transaction to be held back", PATIENCE, || Ok(held.lock().unwrap().first().cloned()))
}
