//! Any log of our contracts as one typed value.

use alloy_primitives::{Address, B256, LogData, U256};
use alloy_sol_types::{SolEvent, SolEventInterface};
use quern_types::{Amount, JobId, JobSpec, ModelId, Move, PackageRoot, Receipt};

use crate::{
    ConvertError, Prices,
    abi::{Guardian, JobMarket::JobMarketEvents as Market, Ledger, ModelRegistry, ProviderRegistry, QuernToken},
    convert::{amount96, secs40},
};

/// What a publisher registers with a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// 160 bytes, PROTOCOL section 2.
    pub header: Vec<u8>,
    /// Root over all tensors.
    pub weights_root: B256,
    /// keccak of tokenizer.json; informative.
    pub tokenizer_hash: B256,
    /// Share of each fee, in 1/10,000.
    pub royalty_bps: u16,
    /// CID codec of the package; not checked by the contract.
    pub package_codec: u8,
    /// sha2-256 of the package's root block; not checked by the contract.
    pub package_digest: B256,
    /// Free text of the publisher: escape it where it is shown.
    pub name: String,
    /// Free text of the publisher: escape it where it is shown.
    pub tags: String,
}

/// One event of our contracts. Times are Unix seconds of the block, amounts the token's smallest unit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the events, documented in contracts/src/interfaces")]
pub enum QuernEvent {
    /// `Ledger`: money moved.
    Moved { entry: Move, head: B256 },

    /// `JobMarket`: a client put the maximum fee into escrow.
    JobPosted { job_id: JobId, client: Address, model_id: ModelId, max_fee: Amount, posted_at: u64, spec: Box<JobSpec> },
    /// `JobMarket`: a provider bound itself; the price is fixed, the stake locked.
    JobClaimed { job_id: JobId, provider: Address, operator: Address, price_bps: u16, deadline: u64, lock: Amount },
    /// `JobMarket`: the result is attested; the challenge window runs.
    ReceiptSubmitted { job_id: JobId, provider: Address, receipt_digest: B256, window_end: u64, receipt: Box<Receipt> },
    /// `JobMarket`: paid.
    JobCompleted { job_id: JobId, provider: Address, publisher: Address, fee: Amount, royalty: Amount, change: Amount },
    /// `JobMarket`: the client took an unclaimed job back.
    JobCancelled { job_id: JobId, client: Address, refund: Amount },
    /// `JobMarket`: nobody claimed in time.
    JobExpired { job_id: JobId, client: Address, refund: Amount },
    /// `JobMarket`: the provider did not deliver in time.
    JobUndelivered { job_id: JobId, client: Address, provider: Address, refund: Amount, penalty: Amount, unlocked: Amount },
    /// `JobMarket`: somebody doubts the receipt.
    ChallengeOpened { job_id: JobId, challenges_open: u16 },
    /// `JobMarket`: a doubt was refuted.
    ChallengeDismissed { job_id: JobId, challenges_open: u16 },
    /// `JobMarket`: the challenge window ends later.
    WindowExtended { job_id: JobId, window_end: u64 },
    /// `JobMarket`: the provider was convicted.
    JobSlashed {
        job_id: JobId,
        provider: Address,
        challenger: Address,
        to_challenger: Amount,
        to_client: Amount,
        delayed: Amount,
        refund: Amount,
    },
    /// `JobMarket`: one job of many could not be completed; the revert data says why.
    CompletionSkipped { job_id: JobId, revert: crate::Revert },

    /// `ProviderRegistry`: a provider's work key changed.
    OperatorChanged { provider: Address, operator: Address },
    /// `ProviderRegistry`: where a provider serves content. Free text.
    ProviderAnnounced { provider: Address, gateway: String },
    /// `ProviderRegistry`: a price.
    PriceListed { provider: Address, model_id: ModelId, prices: Prices },
    /// `ProviderRegistry`: no longer on offer.
    PriceUnlisted { provider: Address, model_id: ModelId },
    /// `ProviderRegistry`: more stake.
    StakeAdded { provider: Address, amount: Amount },
    /// `ProviderRegistry`: stake on its way out.
    UnbondingStarted { provider: Address, amount: Amount, unbonded_at: u64 },
    /// `ProviderRegistry`: stake on its way out came back.
    UnbondingCancelled { provider: Address, amount: Amount },
    /// `ProviderRegistry`: stake is free again.
    StakeWithdrawn { provider: Address, amount: Amount },

    /// `ModelRegistry`: a model, for ever.
    ModelRegistered {
        model_id: ModelId,
        publisher: Address,
        package_root: PackageRoot,
        family: u8,
        macs_per_token: u64,
        registration: Box<Registration>,
    },
    /// `ModelRegistry`: where the package is now.
    PackageAnnounced { model_id: ModelId, package_codec: u8, package_digest: B256 },

    /// `Guardian`: no new jobs, claims and stakes.
    EntriesStopped { guardian: Address },
    /// `Guardian`: open again.
    EntriesResumed { guardian: Address },

    /// `QuernToken`: ERC-20 transfer.
    Transfer { from: Address, to: Address, value: U256 },
    /// `QuernToken`: ERC-20 approval.
    Approval { owner: Address, spender: Address, value: U256 },

    /// An event that this version does not know, with its first topic.
    Unknown { topic: Option<B256> },
    /// An event that this version knows by name, with a value that it cannot read. Whoever emitted it is not the contract of this version, or a
    /// value slipped past the contract's guards; it must not stop anybody.
    Unreadable { signature: &'static str, reason: String },
}

/// Why one log could not be read: either form ends in [`QuernEvent::Unreadable`].
enum Unread {
    Sol(alloy_sol_types::Error),
    Value(ConvertError),
}

impl From<alloy_sol_types::Error> for Unread {
    fn from(error: alloy_sol_types::Error) -> Self {
        Self::Sol(error)
    }
}

impl From<ConvertError> for Unread {
    fn from(error: ConvertError) -> Self {
        Self::Value(error)
    }
}

impl QuernEvent {
    /// Decodes a log of one of our contracts. Total: what cannot be decoded is [`QuernEvent::Unknown`] or [`QuernEvent::Unreadable`].
    ///
    /// TRUST: the log's address is the caller's to check; anybody may emit an event that looks like ours.
    pub fn decode(log: &LogData) -> Self {
        let Some(&topic) = log.topics().first() else { return Self::Unknown { topic: None } };
        let Some((signature, read)) = reader(topic) else { return Self::Unknown { topic: Some(topic) } };
        match read(log) {
            Ok(event) => event,
            Err(Unread::Sol(error)) => Self::Unreadable { signature, reason: error.to_string() },
            Err(Unread::Value(error)) => Self::Unreadable { signature, reason: error.to_string() },
        }
    }

    /// The event's name as it stands in Solidity, for logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Moved { .. } => "Moved",
            Self::JobPosted { .. } => "JobPosted",
            Self::JobClaimed { .. } => "JobClaimed",
            Self::ReceiptSubmitted { .. } => "ReceiptSubmitted",
            Self::JobCompleted { .. } => "JobCompleted",
            Self::JobCancelled { .. } => "JobCancelled",
            Self::JobExpired { .. } => "JobExpired",
            Self::JobUndelivered { .. } => "JobUndelivered",
            Self::ChallengeOpened { .. } => "ChallengeOpened",
            Self::ChallengeDismissed { .. } => "ChallengeDismissed",
            Self::WindowExtended { .. } => "WindowExtended",
            Self::JobSlashed { .. } => "JobSlashed",
            Self::CompletionSkipped { .. } => "CompletionSkipped",
            Self::OperatorChanged { .. } => "OperatorChanged",
            Self::ProviderAnnounced { .. } => "ProviderAnnounced",
            Self::PriceListed { .. } => "PriceListed",
            Self::PriceUnlisted { .. } => "PriceUnlisted",
            Self::StakeAdded { .. } => "StakeAdded",
            Self::UnbondingStarted { .. } => "UnbondingStarted",
            Self::UnbondingCancelled { .. } => "UnbondingCancelled",
            Self::StakeWithdrawn { .. } => "StakeWithdrawn",
            Self::ModelRegistered { .. } => "ModelRegistered",
            Self::PackageAnnounced { .. } => "PackageAnnounced",
            Self::EntriesStopped { .. } => "EntriesStopped",
            Self::EntriesResumed { .. } => "EntriesResumed",
            Self::Transfer { .. } => "Transfer",
            Self::Approval { .. } => "Approval",
            Self::Unknown { .. } => "Unknown",
            Self::Unreadable { .. } => "Unreadable",
        }
    }

    /// The job that the event is about, where it is about one.
    pub const fn job_id(&self) -> Option<JobId> {
        match self {
            Self::JobPosted { job_id, .. }
            | Self::JobClaimed { job_id, .. }
            | Self::ReceiptSubmitted { job_id, .. }
            | Self::JobCompleted { job_id, .. }
            | Self::JobCancelled { job_id, .. }
            | Self::JobExpired { job_id, .. }
            | Self::JobUndelivered { job_id, .. }
            | Self::ChallengeOpened { job_id, .. }
            | Self::ChallengeDismissed { job_id, .. }
            | Self::WindowExtended { job_id, .. }
            | Self::JobSlashed { job_id, .. }
            | Self::CompletionSkipped { job_id, .. } => Some(*job_id),
            _ => None,
        }
    }
}

type Reader = fn(&LogData) -> Result<QuernEvent, Unread>;

/// Signature and reader of an event by its first topic.
fn reader(topic: B256) -> Option<(&'static str, Reader)> {
    let in_market = Market::SELECTORS.contains(&topic.0);
    if in_market {
        return Some((Market::signature_by_selector(topic.0)?, market));
    }
    macro_rules! known {
        ($decode:ident: $($event:ty => $read:expr,)+) => {
            $(if topic == <$event as SolEvent>::SIGNATURE_HASH {
                return Some((<$event as SolEvent>::SIGNATURE, |log| {
                    let read: fn($event) -> Result<QuernEvent, ConvertError> = $read;
                    Ok(read(<$event as SolEvent>::$decode(log)?)?)
                }));
            })+
        };
    }
    // TRUST: free text of strangers, which the contracts take as any bytes: what is no UTF-8 in it is replaced, and stops nobody.
    known! { decode_log_data:
        ProviderRegistry::ProviderAnnounced => |e| Ok(QuernEvent::ProviderAnnounced { provider: e.provider, gateway: e.gateway }),
        ModelRegistry::ModelRegistered => |e| Ok(QuernEvent::ModelRegistered {
            model_id: ModelId(e.modelId),
            publisher: e.publisher,
            package_root: PackageRoot(e.packageRoot),
            family: e.family,
            macs_per_token: e.macsPerToken,
            registration: Box::new(Registration {
                header: e.registration.header.to_vec(),
                weights_root: e.registration.weightsRoot,
                tokenizer_hash: e.registration.tokenizerHash,
                royalty_bps: e.registration.royaltyBps,
                package_codec: e.registration.packageCodec,
                package_digest: e.registration.packageDigest,
                name: e.registration.name,
                tags: e.registration.tags,
            }),
        }),
    }
    known! { decode_log_data_validate:
        Ledger::Moved => |e| Ok(QuernEvent::Moved { entry: Move::try_from(&e)?, head: e.head }),
        ProviderRegistry::OperatorChanged => |e| Ok(QuernEvent::OperatorChanged { provider: e.provider, operator: e.operator }),
        ProviderRegistry::PriceListed => |e| Ok(QuernEvent::PriceListed {
            provider: e.provider, model_id: ModelId(e.modelId), prices: Prices::from(&e.prices),
        }),
        ProviderRegistry::PriceUnlisted => |e| Ok(QuernEvent::PriceUnlisted { provider: e.provider, model_id: ModelId(e.modelId) }),
        ProviderRegistry::StakeAdded => |e| Ok(QuernEvent::StakeAdded { provider: e.provider, amount: Amount::from_units(e.amount) }),
        ProviderRegistry::UnbondingStarted => |e| Ok(QuernEvent::UnbondingStarted {
            provider: e.provider, amount: Amount::from_units(e.amount), unbonded_at: secs40(e.unbondedAt),
        }),
        ProviderRegistry::UnbondingCancelled => |e| Ok(QuernEvent::UnbondingCancelled {
            provider: e.provider, amount: Amount::from_units(e.amount),
        }),
        ProviderRegistry::StakeWithdrawn => |e| Ok(QuernEvent::StakeWithdrawn { provider: e.provider, amount: Amount::from_units(e.amount) }),
        ModelRegistry::PackageAnnounced => |e| Ok(QuernEvent::PackageAnnounced {
            model_id: ModelId(e.modelId), package_codec: e.packageCodec, package_digest: e.packageDigest,
        }),
        Guardian::EntriesStopped => |e| Ok(QuernEvent::EntriesStopped { guardian: e.guardian }),
        Guardian::EntriesResumed => |e| Ok(QuernEvent::EntriesResumed { guardian: e.guardian }),
        QuernToken::Transfer => |e| Ok(QuernEvent::Transfer { from: e.from, to: e.to, value: e.value }),
        QuernToken::Approval => |e| Ok(QuernEvent::Approval { owner: e.owner, spender: e.spender, value: e.value }),
    }
    None
}

fn market(log: &LogData) -> Result<QuernEvent, Unread> {
    let event = Market::decode_raw_log(log.topics(), &log.data)?;
    Ok(match event {
        Market::JobPosted(e) => QuernEvent::JobPosted {
            job_id: JobId(e.jobId),
            client: e.client,
            model_id: ModelId(e.modelId),
            max_fee: amount96(e.maxFee),
            posted_at: secs40(e.postedAt),
            spec: Box::new(JobSpec::try_from(&e.spec)?),
        },
        Market::JobClaimed(e) => QuernEvent::JobClaimed {
            job_id: JobId(e.jobId),
            provider: e.provider,
            operator: e.operator,
            price_bps: e.priceBps,
            deadline: secs40(e.deadline),
            lock: Amount::from_units(e.lock),
        },
        Market::ReceiptSubmitted(e) => QuernEvent::ReceiptSubmitted {
            job_id: JobId(e.jobId),
            provider: e.provider,
            receipt_digest: e.receiptDigest,
            window_end: secs40(e.windowEnd),
            receipt: Box::new(Receipt::try_from(&e.receipt)?),
        },
        Market::JobCompleted(e) => QuernEvent::JobCompleted {
            job_id: JobId(e.jobId),
            provider: e.provider,
            publisher: e.publisher,
            fee: amount96(e.fee),
            royalty: amount96(e.royalty),
            change: amount96(e.change),
        },
        Market::JobCancelled(e) => QuernEvent::JobCancelled { job_id: JobId(e.jobId), client: e.client, refund: amount96(e.refund) },
        Market::JobExpired(e) => QuernEvent::JobExpired { job_id: JobId(e.jobId), client: e.client, refund: amount96(e.refund) },
        Market::JobUndelivered(e) => QuernEvent::JobUndelivered {
            job_id: JobId(e.jobId),
            client: e.client,
            provider: e.provider,
            refund: amount96(e.refund),
            penalty: Amount::from_units(e.penalty),
            unlocked: Amount::from_units(e.unlocked),
        },
        Market::ChallengeOpened(e) => QuernEvent::ChallengeOpened { job_id: JobId(e.jobId), challenges_open: e.challengesOpen },
        Market::ChallengeDismissed(e) => QuernEvent::ChallengeDismissed { job_id: JobId(e.jobId), challenges_open: e.challengesOpen },
        Market::WindowExtended(e) => QuernEvent::WindowExtended { job_id: JobId(e.jobId), window_end: secs40(e.windowEnd) },
        Market::JobSlashed(e) => QuernEvent::JobSlashed {
            job_id: JobId(e.jobId),
            provider: e.provider,
            challenger: e.challenger,
            to_challenger: Amount::from_units(e.toChallenger),
            to_client: Amount::from_units(e.toClient),
            delayed: Amount::from_units(e.delayed),
            refund: amount96(e.refund),
        },
        Market::CompletionSkipped(e) => QuernEvent::CompletionSkipped { job_id: JobId(e.jobId), revert: crate::Revert::decode(&e.reason) },
    })
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Bytes, aliases::U40, aliases::U96};

    use super::*;
    use crate::abi;

    #[test]
    fn every_event_of_our_contracts_has_a_variant() {
        let of_contracts = [
            abi::JobMarket::JobMarketEvents::SELECTORS,
            abi::Ledger::LedgerEvents::SELECTORS,
            abi::ProviderRegistry::ProviderRegistryEvents::SELECTORS,
            abi::ModelRegistry::ModelRegistryEvents::SELECTORS,
            abi::Guardian::GuardianEvents::SELECTORS,
        ];
        for topic in of_contracts.concat() {
            assert!(reader(topic.into()).is_some(), "an event with topic {topic:02x?} has no variant: add it to QuernEvent");
        }
    }

    fn moved() -> Ledger::Moved {
        Ledger::Moved {
            seq: 3,
            from: Address::repeat_byte(1),
            fromBucket: 2,
            to: Address::repeat_byte(1),
            toBucket: 3,
            amount: 77,
            reason: 3,
            referenceId: B256::repeat_byte(9),
            head: B256::repeat_byte(8),
        }
    }

    #[test]
    fn move_is_decoded_whole() {
        let QuernEvent::Moved { entry, head } = QuernEvent::decode(&moved().encode_log_data()) else { panic!("not a move") };
        assert_eq!(
            (entry.seq, entry.amount, entry.reference, head),
            (3, Amount::from_units(77), B256::repeat_byte(9), B256::repeat_byte(8))
        );
        assert_eq!((entry.from_bucket.name(), entry.to_bucket.name(), entry.reason.name()), ("Free", "Escrow", "Escrowed"));
    }

    /// The log with the one `*` of its text turned into a byte that no UTF-8 has.
    fn with_a_byte_that_is_no_text(log: LogData) -> QuernEvent {
        let data: Vec<u8> = log.data.iter().map(|byte| if *byte == b'*' { 0xff } else { *byte }).collect();
        QuernEvent::decode(&LogData::new_unchecked(log.topics().to_vec(), data.into()))
    }

    #[test]
    fn gateway_that_is_no_text_that_an_enemy_announces_is_read_with_replacements() {
        let announced = ProviderRegistry::ProviderAnnounced { provider: Address::repeat_byte(1), gateway: "http://*".into() };
        let QuernEvent::ProviderAnnounced { provider, gateway } = with_a_byte_that_is_no_text(announced.encode_log_data()) else {
            panic!("not an announcement")
        };
        assert_eq!((provider, gateway.as_str()), (Address::repeat_byte(1), "http://\u{fffd}"));
    }

    #[test]
    fn model_with_a_name_that_is_no_text_that_an_enemy_registers_is_read_with_replacements() {
        let mut registered = ModelRegistry::ModelRegistered { family: 1, ..Default::default() };
        registered.registration.header = vec![7; 159].into();
        registered.registration.name = "mini*lm".into();
        registered.registration.royaltyBps = 250;
        let QuernEvent::ModelRegistered { registration, family: 1, .. } = with_a_byte_that_is_no_text(registered.encode_log_data()) else {
            panic!("not a registration")
        };
        assert_eq!((registration.name.as_str(), registration.royalty_bps), ("mini\u{fffd}lm", 250));
    }

    #[test]
    fn value_outside_an_enumeration_is_unreadable_not_an_error() {
        let log = Ledger::Moved { reason: 99, ..moved() }.encode_log_data();
        let expected = "99 is not a ledger reason";
        assert!(
            matches!(QuernEvent::decode(&log), QuernEvent::Unreadable { signature: Ledger::Moved::SIGNATURE, reason } if reason == expected)
        );
    }

    #[test]
    fn cut_data_missing_topics_and_foreign_events_are_told_apart() {
        let whole = moved().encode_log_data();
        let cut = LogData::new_unchecked(whole.topics().to_vec(), whole.data.slice(..40));
        assert!(matches!(QuernEvent::decode(&cut), QuernEvent::Unreadable { .. }));
        let few = LogData::new_unchecked(whole.topics()[..1].to_vec(), whole.data.clone());
        assert!(matches!(QuernEvent::decode(&few), QuernEvent::Unreadable { .. }));
        let foreign = LogData::new_unchecked(vec![B256::repeat_byte(1)], Bytes::new());
        assert_eq!(QuernEvent::decode(&foreign), QuernEvent::Unknown { topic: Some(B256::repeat_byte(1)) });
        assert_eq!(QuernEvent::decode(&LogData::new_unchecked(vec![], Bytes::new())), QuernEvent::Unknown { topic: None });
    }

    #[test]
    fn claim_and_skipped_completion_keep_their_parts() {
        let claimed = abi::JobMarket::JobClaimed {
            jobId: B256::repeat_byte(1),
            provider: Address::repeat_byte(2),
            operator: Address::repeat_byte(3),
            priceBps: 5_000,
            deadline: U40::from(1_700_000_000u64),
            lock: 1 << 100,
        };
        let event = QuernEvent::decode(&claimed.encode_log_data());
        assert_eq!((event.name(), event.job_id()), ("JobClaimed", Some(JobId(B256::repeat_byte(1)))));
        assert!(
            matches!(event, QuernEvent::JobClaimed { price_bps: 5_000, deadline: 1_700_000_000, lock, .. } if lock.units() == 1 << 100)
        );

        let refused = abi::JobMarket::DeadlineNotPassed { jobId: B256::ZERO, deadline: U256::from(9), nowSecs: U256::from(8) };
        let skipped = abi::JobMarket::CompletionSkipped {
            jobId: B256::repeat_byte(1),
            reason: alloy_sol_types::SolError::abi_encode(&refused).into(),
        };
        assert!(matches!(
            QuernEvent::decode(&skipped.encode_log_data()),
            QuernEvent::CompletionSkipped { revert: crate::Revert::DeadlineNotPassed(error), .. } if error == refused
        ));
        assert_eq!(amount96(U96::MAX).units(), (1 << 96) - 1);
    }
}
