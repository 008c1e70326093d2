//! The contracts' events in the database's words.

use quern_bindings::QuernEvent;
use quern_chain::{Batch, Event};
use quern_db::index::{self, Change, Place, Prices, Registration};

/// A batch of the stream as the index takes it.
#[must_use]
pub fn batch(batch: Batch<Event>) -> index::Batch {
    index::Batch {
        blocks: batch.blocks.iter().map(|block| index::Block { at: block.at, parent: block.parent }).collect(),
        events: batch
            .events
            .into_iter()
            .map(|event| index::Event {
                place: Place { block: event.block, log_index: event.log_index, tx_hash: event.tx_hash },
                contract: event.address,
                change: change(event.event),
            })
            .collect(),
        heads: batch.heads,
    }
}

/// Free text of a stranger: kept as it is, but for the one character that a text column cannot hold in every database.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn registration(registration: quern_bindings::Registration) -> Registration {
    let words = registration.header.chunks(4).map(|word| word.iter().fold(0, |value, byte| value << 8 | u32::from(*byte))).collect();
    Registration {
        header: words,
        weights_root: registration.weights_root,
        tokenizer_hash: registration.tokenizer_hash,
        royalty_bps: registration.royalty_bps,
        package_codec: registration.package_codec,
        package_digest: registration.package_digest,
        name: text(&registration.name),
        tags: text(&registration.tags),
    }
}

/// One event. Total: what the index has no word for is [`Change::Other`], with its name and what is known of it.
#[must_use]
pub fn change(event: QuernEvent) -> Change {
    let other = |name: &str, detail: String| Change::Other { name: name.to_owned(), detail: text(&detail) };
    match event {
        QuernEvent::Moved { entry, head } => Change::Moved { entry, head },
        QuernEvent::JobPosted { job_id, client, model_id, max_fee, posted_at, spec } => {
            Change::JobPosted { job: job_id, client, model: model_id, max_fee, posted_at, spec }
        }
        QuernEvent::JobClaimed { job_id, provider, operator, price_bps, deadline, lock } => {
            Change::JobClaimed { job: job_id, provider, operator, price_bps, deadline, lock }
        }
        QuernEvent::ReceiptSubmitted { job_id, provider, receipt_digest, window_end, receipt, .. } => {
            Change::ReceiptSubmitted { job: job_id, provider, receipt_digest, window_end, receipt }
        }
        QuernEvent::JobCompleted { job_id, provider, publisher, fee, royalty, change } => {
            Change::JobCompleted { job: job_id, provider, publisher, fee, royalty, change }
        }
        QuernEvent::JobCancelled { job_id, client, refund } => Change::JobCancelled { job: job_id, client, refund },
        QuernEvent::JobExpired { job_id, client, refund } => Change::JobExpired { job: job_id, client, refund },
        QuernEvent::JobUndelivered { job_id, client, provider, refund, penalty, unlocked } => {
            Change::JobUndelivered { job: job_id, client, provider, refund, penalty, unlocked }
        }
        QuernEvent::ChallengeOpened { job_id, challenges_open } => Change::ChallengeOpened { job: job_id, challenges_open },
        QuernEvent::ChallengeDismissed { job_id, challenges_open } => Change::ChallengeDismissed { job: job_id, challenges_open },
        QuernEvent::WindowExtended { job_id, window_end } => Change::WindowExtended { job: job_id, window_end },
        QuernEvent::JobSlashed { job_id, provider, challenger, to_challenger, to_client, delayed, refund } => {
            Change::JobSlashed { job: job_id, provider, challenger, to_challenger, to_client, delayed, refund }
        }
        QuernEvent::CompletionSkipped { job_id, revert } => Change::CompletionSkipped { job: job_id, reason: text(&revert.to_string()) },
        QuernEvent::OperatorChanged { provider, operator } => Change::OperatorChanged { provider, operator },
        QuernEvent::ProviderAnnounced { provider, gateway } => Change::ProviderAnnounced { provider, gateway: text(&gateway) },
        QuernEvent::PriceListed { provider, model_id, prices } => {
            let prices = Prices { base: prices.base, input: prices.input, output: prices.output, item: prices.item };
            Change::PriceListed { provider, model: model_id, prices }
        }
        QuernEvent::PriceUnlisted { provider, model_id } => Change::PriceUnlisted { provider, model: model_id },
        QuernEvent::StakeAdded { provider, amount } => Change::StakeAdded { provider, amount },
        QuernEvent::UnbondingStarted { provider, amount, unbonded_at } => Change::UnbondingStarted { provider, amount, unbonded_at },
        QuernEvent::UnbondingCancelled { provider, amount } => Change::UnbondingCancelled { provider, amount },
        QuernEvent::StakeWithdrawn { provider, amount } => Change::StakeWithdrawn { provider, amount },
        QuernEvent::ModelRegistered { model_id, publisher, package_root, family, macs_per_token, registration: said } => {
            let registration = Box::new(registration(*said));
            Change::ModelRegistered { model: model_id, publisher, package_root, family, macs_per_token, registration }
        }
        QuernEvent::PackageAnnounced { model_id, package_codec, package_digest } => {
            Change::PackageAnnounced { model: model_id, package_codec, package_digest }
        }
        QuernEvent::EntriesStopped { guardian } => Change::EntriesStopped { guardian },
        QuernEvent::EntriesResumed { guardian } => Change::EntriesResumed { guardian },
        QuernEvent::Transfer { from, to, value } => other("Transfer", format!("{value} from {from} to {to}")),
        QuernEvent::Approval { owner, spender, value } => other("Approval", format!("{value} of {owner} for {spender}")),
        QuernEvent::Unknown { topic } => other("Unknown", format!("{topic:?}")),
        QuernEvent::Unreadable { signature, reason } => other("Unreadable", format!("{signature}: {reason}")),
    }
}
