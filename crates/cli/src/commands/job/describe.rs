//! Jobs in words and as objects.

use quern_chain::sender::TxReceipt;
use quern_client::{Action, ClientError, Facts, JobLife, Run, advice};
use quern_types::{Amount, B256, JobId, JobKind, JobSpec, ModelId, UNUSED_STOP_ID};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{output, session::in_tokens};

pub(super) const LIST_JSON: &str =
    "JSON, one object per job: {\"id\",\"state\",\"run\",\"source\",\"planned_at\",\"model\",\"kind\",\"items\",\"max_fee\",\"who\",\"action\",\
\"command\",\"deadline\",\"seconds_left\",\"reclaimable\",\"reclaimable_now\"}
  who can move it on: provider, anyone, auditors, game, nobody; until deadline (Unix seconds)
  action: what the client can do now: cancel, expire, refund_undelivered, complete, or null; command is the line to type
  reclaimable: what that brings back, in the smallest unit; reclaimable_now: whether it waits for nothing else
  run, source and planned_at are null for jobs that were posted elsewhere.";

pub(super) const SHOW_JSON: &str = "JSON: {\"id\",\"state\",\"head\",\"client\",\"model\",\"kind\",\"items\",\"samples\",\"input_ids\",\"max_output\",\"output_ids\",\"max_fee\",\"posted_at\",\"claim_by\",\"provider\",\
\"operator\",\"price_bps\",\"lock\",\"deadline\",\"window_end\",\"fee\",\"royalty\",\"refund\",\"penalty\",\"input\",\"output\",\"receipt\",\
\"posted_block\",\"claimed_block\",\"submitted_block\",\"ended_block\",\"steps\":[{\"event\",\"tx\",\"block\",\"timestamp\",\"gas_used\",\"cost\"}],\"spec\",\
\"who\",\"action\",\"command\",\"seconds_left\",\"reclaimable\"}
  What has not happened is null. Amounts are strings of the smallest unit, times are Unix seconds, cost is in wei.
  kind is embed or generate; max_output is the most ids of one output, output_ids what the receipt counts over all; both are null for embeddings.
  penalty is what the client got of the provider's lock; head is what the last step stands under: latest, safe, finalized.";

/// A job as `quern job list` shows it.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    pub(super) id: JobId,
    pub(super) state: &'static str,
    run: Option<B256>,
    source: Option<String>,
    planned_at: Option<u64>,
    model: ModelId,
    kind: JobKind,
    pub(super) items: u32,
    pub(super) max_fee: Amount,
    pub(super) who: String,
    action: Option<Action>,
    pub(super) command: Option<String>,
    deadline: Option<u64>,
    pub(super) seconds_left: Option<u64>,
    pub(super) reclaimable: Amount,
    pub(super) reclaimable_now: bool,
}

impl Listed {
    /// A job of the journal, of the chain, or of both.
    pub(super) fn new(id: JobId, spec: &JobSpec, run: Option<&Run>, life: Option<&JobLife>, now: u64) -> Result<Self, ClientError> {
        let listed = Self {
            id,
            state: "unposted",
            run: run.map(|run| run.id),
            source: run.map(|run| run.source.clone()),
            planned_at: run.map(|run| run.planned_at),
            model: spec.model_id,
            kind: spec.kind,
            items: spec.item_count,
            max_fee: spec.max_fee()?,
            who: "client".into(),
            action: None,
            command: run.map(|run| format!("quern job resume {}", run.id)),
            deadline: Some(spec.claim_by),
            seconds_left: Some(spec.claim_by.saturating_sub(now)),
            reclaimable: Amount::ZERO,
            reclaimable_now: false,
        };
        let Some(life) = life else { return Ok(listed) };
        let advice = advice(life, now);
        Ok(Self {
            state: state(life),
            who: word(&advice.who),
            action: advice.action,
            command: advice.action.map(|action| command(action, id)),
            deadline: advice.deadline,
            seconds_left: advice.seconds_left,
            reclaimable: advice.reclaimable,
            reclaimable_now: advice.action.is_some_and(|action| action != Action::Cancel) && !advice.reclaimable.is_zero(),
            ..listed
        })
    }
}

fn state(life: &JobLife) -> &'static str {
    use quern_types::JobState as S;
    match life.state {
        S::Open => "open",
        S::Claimed => "claimed",
        S::Submitted => "submitted",
        S::Challenged => "challenged",
        S::Completed => "completed",
        S::Refunded => "refunded",
        S::Slashed => "slashed",
    }
}

/// The word that JSON has for a value.
fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn command(action: Action, id: JobId) -> String {
    let name = match action {
        Action::Cancel => "cancel",
        Action::Expire | Action::RefundUndelivered => "refund",
        Action::Complete => "complete",
    };
    format!("quern job {name} {id}")
}

/// A job as `quern job show --json` prints it.
pub(super) fn described(id: JobId, life: &JobLife, facts: &Facts, receipts: &[Option<TxReceipt>]) -> Value {
    let now = facts.last().map_or(0, |block| block.timestamp);
    let advice = advice(life, now);
    let block_of = |event: &str| life.steps.iter().rev().find(|step| step.event == event).map(|step| step.block.number);
    let steps: Vec<Value> = life
        .steps
        .iter()
        .zip(receipts)
        .map(|(step, receipt)| {
            json!({
                "event": step.event, "tx": step.tx, "block": step.block.number, "timestamp": step.block.timestamp,
                "gas_used": receipt.as_ref().map(|receipt| receipt.gas_used), "cost": receipt.as_ref().map(|receipt| receipt.cost().to_string()),
            })
        })
        .collect();
    let last = life.steps.last();
    let claim = life.claim;
    let settled = life.settled;
    let generates = life.spec.kind == JobKind::Generate;
    json!({
        "id": id, "state": state(life), "head": last.map(|step| facts.head_of(step.block)),
        "client": life.spec.client, "model": life.spec.model_id, "kind": life.spec.kind, "items": life.spec.item_count,
        "samples": life.spec.samples_per_item, "input_ids": life.spec.input_len, "max_output": generates.then_some(life.spec.max_output),
        "output_ids": life.receipt.filter(|_| generates).map(|receipt| receipt.output_len),
        "max_fee": life.max_fee, "posted_at": life.posted_at, "claim_by": life.spec.claim_by,
        "provider": claim.map(|claim| claim.provider), "operator": claim.map(|claim| claim.operator),
        "price_bps": claim.map(|claim| claim.price_bps), "lock": claim.map(|claim| claim.lock), "deadline": claim.map(|claim| claim.deadline),
        "window_end": life.window_end,
        "fee": settled.map(|settled| settled.fee), "royalty": settled.map(|settled| settled.royalty),
        "refund": settled.map(|settled| settled.refund), "penalty": settled.map(|settled| settled.compensation),
        "input": life.spec.input, "output": life.receipt.map(|receipt| receipt.output), "receipt": life.receipt,
        "posted_block": block_of("JobPosted"), "claimed_block": block_of("JobClaimed"), "submitted_block": block_of("ReceiptSubmitted"),
        "ended_block": if life.state.is_terminal() { last.map(|step| step.block.number) } else { None },
        "steps": steps, "spec": life.spec,
        "who": advice.who, "action": advice.action, "command": advice.action.map(|action| command(action, id)),
        "seconds_left": advice.seconds_left, "reclaimable": advice.reclaimable,
    })
}

/// What a generate job asks for.
fn asked(spec: &JobSpec) -> Vec<String> {
    let samples = output::count(spec.samples_per_item as usize, "sample");
    let mut lines = vec![format!("generate  {samples} per item, each of at most {}", output::count(spec.max_output as usize, "id"))];
    let q16 = |number: u32| f64::from(number) / 65_536.0;
    lines.push(match spec.temperature {
        0 => "sampling  none: always the likeliest id".to_owned(),
        temperature => format!("sampling  temperature {:.4}, min-p {:.4}, seed {:#x}", q16(temperature), q16(spec.min_p), spec.seed),
    });
    let stops: Vec<String> = spec.stop_ids.iter().filter(|id| **id != UNUSED_STOP_ID).map(ToString::to_string).collect();
    lines.push(format!("stop ids  {}", if stops.is_empty() { "none".to_owned() } else { stops.join(", ") }));
    lines
}

/// The same for a person.
pub(super) fn show_text(id: JobId, life: &JobLife, facts: &Facts, receipts: &[Option<TxReceipt>]) -> String {
    let now = facts.last().map_or(0, |block| block.timestamp);
    let advice = advice(life, now);
    let mut lines = vec![
        format!("job       {id}"),
        format!("state     {}", state(life)),
        format!("client    {}", life.spec.client),
        format!("model     {}", life.spec.model_id),
        format!(
            "input     {} with {}",
            output::count(life.spec.item_count as usize, "item"),
            output::count(usize::try_from(life.spec.input_len).unwrap_or(usize::MAX), "id")
        ),
        format!("at most   {}", in_tokens(life.max_fee)),
    ];
    if life.spec.kind == JobKind::Generate {
        lines.extend(asked(&life.spec));
    }
    if let Some(claim) = life.claim {
        lines.push(format!("provider  {} at {} bps, {} locked", claim.provider, claim.price_bps, in_tokens(claim.lock)));
    }
    if let Some(receipt) = life.receipt {
        let method = word(&receipt.energy_method);
        let ids = usize::try_from(receipt.output_len).unwrap_or(usize::MAX);
        let ids = if life.spec.kind == JobKind::Generate { format!(" with {}", output::count(ids, "id")) } else { String::new() };
        lines.push(format!("output    {}{ids}", receipt.output));
        lines.push(format!("energy    {} mJ ({method})", receipt.energy_millijoules));
    }
    if let Some(settled) = life.settled {
        lines.push(format!("paid      {} (royalty {})", in_tokens(settled.fee), in_tokens(settled.royalty)));
        lines.push(format!("back      {}", in_tokens(settled.refund)));
        if !settled.compensation.is_zero() {
            lines.push(format!("penalty   {} from the provider", in_tokens(settled.compensation)));
        }
    }
    for (step, receipt) in life.steps.iter().zip(receipts) {
        let gas = receipt.as_ref().map_or_else(String::new, |receipt| format!(", {} gas", receipt.gas_used));
        lines.push(format!("  block {:<8} {:<17} {:#x}{gas}", step.block.number, step.event, step.tx));
    }
    let turn = match (advice.seconds_left, word(&advice.who).as_str()) {
        (_, "nobody") => "over".to_owned(),
        (Some(0), who) => format!("{who} may act now"),
        (Some(left), who) => format!("{who}, for another {left} s"),
        (None, who) => who.to_owned(),
    };
    lines.push(format!("turn      {turn}"));
    if let Some(action) = advice.action {
        let money = if advice.reclaimable.is_zero() { String::new() } else { format!(" (brings {} back)", in_tokens(advice.reclaimable)) };
        lines.push(format!("you can   {}{money}", command(action, id)));
    }
    lines.join("\n")
}
