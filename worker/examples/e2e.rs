//! throwaway
use std::{num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};
use quern_bindings::{Prices, abi::{JobMarket, Ledger, ModelRegistry, IModelRegistry, ProviderRegistry, QuernToken}};
use quern_chain::{Client, ClientConfig, deployment::Deployment, keys::Key, sender::{Call, MemoryJournal, SenderConfig, TxSender}};
use quern_commit::blob::InputSet;
use quern_store::{ContentStore, EmbeddedStore, EmbeddedConfig};
use quern_types::*;
use quern_worker::*;
use tokio_util::sync::CancellationToken;
type R<T> = Result<T, Box<dyn std::error::Error>>;
fn key(hexs: &str) -> Key { let b: B256 = hexs.parse().unwrap(); Key::from_bytes(&b.0).unwrap() }
async fn send(s: &TxSender, k: &str, c: Call) -> R<u64> {
    let k = format!("{k}/{}", std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos());
    let r = s.send(&k, &c, Head::Latest).await?.success().map_err(|r| r.to_string())?;
    println!("{k}: gas {}", r.gas_used); Ok(r.block.timestamp)
}
#[tokio::main]
async fn main() -> R<()> {
    tracing_subscriber::fmt().with_env_filter("info").init();
    let args: Vec<String> = std::env::args().collect();
    let url = &args[1]; let dep = Deployment::read(&PathBuf::from(&args[2]))?; let pkg = PathBuf::from(&args[3]); let dir = PathBuf::from(&args[4]);
    let mode = args.get(5).cloned().unwrap_or_default();
    let cc = ClientConfig::new(url.clone(), dep.chain_id);
    let client = Client::connect(cc.clone()).await?;
    let deployer = key("0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80");
    let owner = key("0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d");
    let operator = key("0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a");
    let customer = key("0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6");
    let mk = |k: &Key| Arc::new(TxSender::new(client.clone(), k.clone(), Arc::new(MemoryJournal::new()), SenderConfig { poll: Duration::from_millis(200), ..Default::default() }));
    let (sd, so, sc) = (mk(&deployer), mk(&owner), mk(&customer));
    let c = &dep.contracts;
    let package = quern_model::Package::open(&pkg)?;
    let id = quern_commit::model::model_id(package.root(), deployer.address(), 250);
    let token = |t: u64| U256::from(t) * U256::from(1_000_000_000_000_000_000u64);
    let store_dir = dir.join("store");
    if mode == "setup" {
        for (a, s) in [(&owner, &so), (&customer, &sc)] {
            send(&sd, "transfer", Call::new(c.quern_token.address, &QuernToken::transferCall { to: a.address(), value: token(1000) })).await?;
            send(s, "approve", Call::new(c.quern_token.address, &QuernToken::approveCall { spender: c.ledger.address, value: token(1000) })).await?;
            send(s, "deposit", Call::new(c.ledger.address, &Ledger::depositCall { account: a.address(), amount: 1000_000_000_000_000_000_000 })).await?;
        }
        send(&so, "stake", Call::new(c.provider_registry.address, &ProviderRegistry::stakeCall { amount: 500_000_000_000_000_000_000 })).await?;
        send(&so, "operator", Call::new(c.provider_registry.address, &ProviderRegistry::setOperatorCall { operator: operator.address() })).await?;
        let reg = IModelRegistry::Registration { header: package.header().to_bytes().to_vec().into(), weightsRoot: package.record().weights_root, tokenizerHash: package.record().tokenizer_hash, royaltyBps: 250, packageCodec: 0x55, packageDigest: B256::repeat_byte(1), name: "m".into(), tags: "".into() };
        send(&sd, "register", Call::new(c.model_registry.address, &ModelRegistry::registerCall { r: reg })).await?;
    }
    let store = EmbeddedStore::open(&store_dir, EmbeddedConfig::default()).await?;
    if mode == "post" || mode == "setup" {
        let n: u64 = args.get(6).map_or(3, |n| n.parse().unwrap());
        let deliver: u32 = args.get(7).map_or(120, |n| n.parse().unwrap());
        for i in 0..n {
            let salt = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64;
            let items: Vec<Vec<u32>> = (0..20).map(|j| package.item(1, &format!("line {j} of job {i} {salt}")).unwrap()).chain([vec![]]).collect();
            let set = InputSet::new(items)?;
            let root = set.tree()?.root();
            let cid = store.put(&set.to_blob()).await?;
            let spec = JobSpec { client: customer.address(), model_id: id, kind: JobKind::Embed, item_count: set.items().len() as u32, samples_per_item: 1, input_root: root.hash, input_len: root.count, max_output: 0, stop_ids: [0; 8], temperature: 0, min_p: 0, seed: B256::ZERO,
                base_price: Amount::from_units(1_000_000_000_000_000), input_price: Amount::from_units(1_000_000_000_000), output_price: Amount::ZERO, item_price: Amount::from_units(5_000_000_000_000), ramp_floor_bps: 5000, ramp_secs: 10,
                claim_by: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 600, deliver_within: deliver, designated: Address::ZERO, input: cid, salt: B256::left_padding_from(&salt.to_be_bytes()) };
            send(&sc, "post", Call::new(c.job_market.address, &JobMarket::postCall { spec: (&spec).try_into()? })).await?;
            println!("JOB {}", spec.id(&dep.domain()));
        }
    }
    if mode == "work" {
        let mut config = Config::new(dir.join("worker"), cc.clone(), dep.clone(), owner.address(), operator.clone(), vec![pkg.clone()]);
        config.store_dir = Some(store_dir.clone());
        config.default_prices = Some(Prices { base: Amount::from_units(700_000_000_000_000), ..Default::default() });
        config.margin_secs = 5; config.threads = 2; config.listen = Some("127.0.0.1:8598".parse()?); config.public_url = Some("http://127.0.0.1:8598".into());
        let secs: u64 = args.get(6).map_or(40, |n| n.parse().unwrap());
        config.crash = args.get(7).map(|p| p.parse().unwrap());
        let stop = CancellationToken::new(); let s2 = stop.clone();
        tokio::spawn(async move { tokio::time::sleep(Duration::from_secs(secs)).await; s2.cancel(); });
        quern_worker::run(config, stop).await?;
        println!("{}", serde_json::to_string(&quern_worker::status(&dir.join("worker"))?)?);
    }
    if mode == "audit" {
        let v = audit::audit_ledger(&client, &dep, &audit::LedgerAudit { at: audit::AuditAt::Head(Head::Latest), block_hash: None, output_root: None }).await?;
        println!("{}", serde_json::to_string_pretty(&v)?);
        for job in &args[6..] {
            let v = audit::audit_job(&client, &dep, job.parse()?, &audit::JobAudit { packages: vec![pkg.clone()], gateways: vec![], store: Some(Arc::new(store.clone())), threads: NonZeroUsize::new(2).unwrap(), fetch_timeout_ms: 3000 }).await?;
            println!("{}", serde_json::to_string_pretty(&v)?);
        }
    }
    Ok(())
}
