//! The node lies to the auditor. Every lie ends with exit code 3 and the name of what it touched.

use quern_testkit::{Actor, Answer, Devnet, RpcProxy};
use quern_types::{Address, Amount, B256, Bucket, LedgerHead, Move, Reason, U256, keccak256};
use serde_json::{Value, json};

use crate::story::{LINES, Story};

const PROOF: &str = "proof of the state";
const ENTRIES: &str = "number of entries, proven by the state";
const COVER: &str = "token balance of the Ledger, proven by the state";

/// A story that is over, its auditor, and the node that lies to it.
struct Court {
    story: Story,
    auditor: Actor,
    proxy: RpcProxy,
    deployment: Value,
}

impl Court {
    /// One job, paid; the last entry is one that no event announces.
    fn opens() -> Self {
        let story = Story::begin().unwrap();
        let worker = story.worker(&[]).unwrap();
        story.embed(LINES, &[]).unwrap();
        let id = story.only_job().unwrap();
        story.wait_for_state(&id, "completed", 10).unwrap();
        drop(worker);
        story.client.quern(&["wallet", "withdraw", "1"]).unwrap();
        story.audit().unwrap();
        let proxy = RpcProxy::start(&story.market.devnet.url()).unwrap();
        let auditor = story.client.asking(&proxy.url());
        let deployment = serde_json::from_slice(&std::fs::read(story.market.devnet.deployment()).unwrap()).unwrap();
        Self { story, auditor, proxy, deployment }
    }

    fn address(&self, contract: &str) -> Address {
        self.deployment.pointer(&format!("/contracts/{contract}/address")).unwrap().as_str().unwrap().parse().unwrap()
    }

    fn rpc(&self, method: &str, params: &Value) -> Value {
        self.story.market.devnet.rpc(method, params).unwrap()
    }

    /// Every entry of the ledger, as the honest node has it.
    fn entries(&self) -> Vec<Entry> {
        let filter = json!([{ "address": self.address("Ledger"), "fromBlock": "0x0", "toBlock": "latest" }]);
        self.rpc("eth_getLogs", &filter).as_array().unwrap().iter().map(|log| Entry::read(log.clone())).collect()
    }

    /// From now on the ledger's entries are these.
    fn tell(&self, entries: &[Entry]) {
        let (told, ledger) = (entries.iter().map(Entry::log).collect::<Vec<_>>(), self.address("Ledger"));
        let of_ledger = move |log: &Value| log["address"].as_str().unwrap().parse::<Address>() == Ok(ledger);
        self.proxy.set_rule(move |method, params, honest| {
            let Some(logs) = honest.as_array().filter(|_| method == "eth_getLogs") else { return Answer::Honest };
            let range = number(&params[0]["fromBlock"])..=number(&params[0]["toBlock"]);
            let ours = told.iter().filter(|log| range.contains(&number(&log["blockNumber"])));
            Answer::Result(logs.iter().filter(|log| !of_ledger(log)).chain(ours).cloned().collect())
        });
    }

    /// From now on answers of a method are changed so.
    fn twist(&self, wanted: &'static str, twist: impl Fn(&Value, &mut Value) + Send + Sync + 'static) {
        self.proxy.set_rule(move |method, params, honest| {
            if method != wanted || honest.is_null() {
                return Answer::Honest;
            }
            let mut lied = honest.clone();
            twist(params, &mut lied);
            Answer::Result(lied)
        });
    }

    /// From now on a call of a function of a contract is answered with another word at an index.
    fn twist_call(&self, contract: &str, function: &str, index: usize, word: U256) {
        let (to, selector) = (self.address(contract), format!("{:?}", keccak256(function))[..10].to_owned());
        self.twist("eth_call", move |params, answer| {
            let call = &params[0];
            let data = call["input"].as_str().or(call["data"].as_str()).unwrap_or_default();
            if call["to"].as_str().unwrap().parse::<Address>() == Ok(to) && data.starts_with(&selector) {
                let mut words = answer.as_str().unwrap().to_owned();
                words.replace_range(2 + 64 * index..66 + 64 * index, &hex(word));
                *answer = json!(words);
            }
        });
    }

    /// The audit's difference: exit code 3, at this entry, about this.
    fn finds(&self, seq: Option<u64>, what: &str) -> Value {
        let output = self.auditor.command(&["audit", "ledger", "--head", "latest", "--json"]).unwrap().output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(3), "{said}");
        let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
        let difference = verdict["difference"].clone();
        assert_eq!((&verdict["ok"], difference["seq"].as_u64()), (&json!(false), seq), "{said}");
        assert!(difference["what"].as_str().unwrap().starts_with(what), "{said}");
        difference
    }

    /// Without a lie nothing is found.
    fn adjourns(&self) {
        self.proxy.be_honest();
        assert_eq!(self.auditor.quern_one(&["audit", "ledger", "--head", "latest"]).unwrap()["ok"], true);
        self.story.audit().unwrap();
    }
}

#[test]
fn lying_node_is_caught_at_the_first_entry_that_differs() {
    let court = Court::opens();
    let honest = court.entries();
    let count = honest.len() as u64;
    let more = |entry: &mut Entry| entry.moved.amount = entry.moved.amount.checked_add(Amount::from_units(1)).unwrap();

    let mut larger = honest.clone();
    more(&mut larger[2]);
    court.tell(&larger);
    court.finds(Some(3), "head after the entry, hashed from its fields and the head before");

    let mut missing = honest.clone();
    missing.remove(3);
    court.tell(&missing);
    court.finds(Some(4), "a move for Escrowed, which an event of its transaction announces");

    court.tell(&honest[..honest.len() - 1]);
    court.finds(Some(count), ENTRIES);

    let mut longer = honest.clone();
    let last = honest.last().unwrap();
    let from = last.moved.from;
    let deposit =
        Move { seq: count + 1, from_bucket: Bucket::Outside, to: from, to_bucket: Bucket::Free, reason: Reason::Deposit, ..last.moved };
    longer.push(Entry { moved: deposit, ..last.clone() }.after(last));
    court.tell(&longer);
    court.finds(Some(count + 1), ENTRIES);

    // A history that holds in itself: one deposit is larger, and every head from there on follows from it.
    let at = honest.iter().rposition(|entry| entry.moved.reason == Reason::Deposit).unwrap();
    let mut rehashed = honest.clone();
    more(&mut rehashed[at]);
    rehash(&mut rehashed, court.address("Ledger"));
    assert!(rehashed[..at] == honest[..at] && rehashed[at..].iter().zip(&honest[at..]).all(|(lied, true_one)| lied.head != true_one.head));
    court.tell(&rehashed);
    court.finds(Some(honest[at].moved.seq), "head after the entries of this block, proven by its state");

    court.adjourns();
}

#[test]
fn node_that_lies_about_state_and_reads_is_caught_by_the_proof() {
    let court = Court::opens();

    court.twist("eth_getProof", |_, answer| {
        if let Some(value) = answer.pointer_mut("/storageProof/0/value") {
            *value = json!("0x1234");
        }
    });
    court.finds(None, PROOF);

    court.twist("eth_getBlockByHash", |_, block| block["stateRoot"] = json!(B256::repeat_byte(0x11)));
    let difference = court.finds(None, PROOF);
    assert!(difference["found"].as_str().unwrap().contains("hashes to"), "{difference}");

    // What is read without a proof: the market's parameters, of which word 5 is the penalty, and the token's balance.
    court.twist_call("JobMarket", "parameters()", 5, U256::from(9_999));
    let difference = court.finds(None, "parameters of the market, by the deployment file");
    assert!(difference["found"].as_str().unwrap().contains("9999"), "{difference}");

    court.proxy.be_honest();
    let held: U256 =
        court.auditor.quern_one(&["audit", "ledger", "--head", "latest"]).unwrap()["tokenBalance"].as_str().unwrap().parse().unwrap();
    court.twist_call("QuernToken", "balanceOf(address)", 0, held + U256::ONE);
    assert_eq!(court.finds(None, COVER)["expected"], held.to_string());

    court.adjourns();
}

#[test]
fn ledger_without_its_money_and_contract_with_other_code_are_found_whatever_the_node_says() {
    let court = Court::opens();
    let (token, ledger) = (court.address("QuernToken"), court.address("Ledger"));
    let slot = keccak256([ledger.into_word().0, [0; 32]].concat());
    let held = court.rpc("eth_getStorageAt", &json!([token, slot, "latest"]));
    let set_money = |word: &Value| {
        court.rpc("anvil_setStorageAt", &json!([token, slot, word]));
        court.story.market.devnet.mine(1).unwrap();
    };
    set_money(&json!(B256::ZERO));
    court.proxy.be_honest();
    assert_eq!(court.finds(None, "token balance of the Ledger, which must cover all buckets")["found"], "0");
    court.twist_call("QuernToken", "balanceOf(address)", 0, held.as_str().unwrap().parse().unwrap());
    assert_eq!(court.finds(None, COVER)["expected"], "0");
    set_money(&held);
    court.adjourns();

    // Code that nobody deployed, under a node that shows the old one.
    let registry = court.address("ModelRegistry");
    let code = court.rpc("eth_getCode", &json!([registry, "latest"]));
    let set_code = |code: &Value| {
        court.rpc("anvil_setCode", &json!([registry, code]));
        court.story.market.devnet.mine(1).unwrap();
    };
    set_code(&json!("0x00"));
    let shown = code.clone();
    court.twist("eth_getCode", move |params, answer| {
        if params[0].as_str().unwrap().parse::<Address>() == Ok(registry) {
            *answer = shown.clone();
        }
    });
    court.finds(None, &format!("code of {registry}, proven by the state"));
    set_code(&code);
    court.adjourns();
}

/// One entry of the ledger with the log that tells it.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    log: Value,
    moved: Move,
    head: B256,
}

impl Entry {
    /// `Moved` holds seq, from bucket, to bucket, amount, reason and head in its data.
    fn read(log: Value) -> Self {
        let data = log["data"].as_str().unwrap().trim_start_matches("0x");
        let word = |at: usize| U256::from_str_radix(&data[at * 64..(at + 1) * 64], 16).unwrap();
        let topic = |at: usize| log["topics"][at].as_str().unwrap().parse::<B256>().unwrap();
        let code = |at: usize| u8::try_from(word(at)).unwrap();
        let moved = Move {
            seq: word(0).to(),
            from: Address::from_word(topic(1)),
            from_bucket: Bucket::try_from(code(1)).unwrap(),
            to: Address::from_word(topic(2)),
            to_bucket: Bucket::try_from(code(2)).unwrap(),
            amount: Amount::from_units(word(3).to()),
            reason: Reason::try_from(code(4)).unwrap(),
            reference: topic(3),
        };
        let head = word(5).into();
        Self { log, moved, head }
    }

    fn log(&self) -> Value {
        let Move { seq, from, from_bucket, to, to_bucket, amount, reason, reference } = self.moved;
        let words = [
            U256::from(seq),
            U256::from(from_bucket.code()),
            U256::from(to_bucket.code()),
            amount.to_u256(),
            U256::from(reason.code()),
            self.head.into(),
        ];
        let mut log = self.log.clone();
        log["data"] = json!(format!("0x{}", words.map(hex).concat()));
        log["topics"] = json!([log["topics"][0], from.into_word(), to.into_word(), reference]);
        log
    }

    /// The same behind another one, in its transaction.
    fn after(mut self, last: &Self) -> Self {
        let ledger = self.log["address"].as_str().unwrap().parse().unwrap();
        let before = LedgerHead { seq: last.moved.seq, hash: last.head, ..LedgerHead::genesis(Devnet::CHAIN_ID, ledger) };
        self.head = before.after(&self.moved).hash;
        self.log["logIndex"] = json!(format!("{:#x}", number(&last.log["logIndex"]) + 1));
        self
    }
}

/// Makes every head follow from the entries.
fn rehash(entries: &mut [Entry], ledger: Address) {
    let mut head = LedgerHead::genesis(Devnet::CHAIN_ID, ledger);
    for entry in entries {
        head = head.after(&entry.moved);
        entry.head = head.hash;
    }
}

/// The 64 digits of a word.
fn hex(word: U256) -> String {
    format!("{:?}", B256::from(word)).trim_start_matches("0x").to_owned()
}

/// A JSON-RPC quantity.
fn number(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}
