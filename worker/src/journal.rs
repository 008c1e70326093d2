//! The journal of `quern-db` as the transaction sender of `quern-chain` wants it.

use std::sync::Arc;

use async_trait::async_trait;
use quern_chain::{
    Cursor,
    sender::{Attempt, Fees, Intent, IntentStatus, Journal, JournalError, Mined, NewIntent},
};
use quern_db::journal as db;
use quern_types::Address;

/// The rows of a worker's journal, under the sender's names.
#[derive(Debug, Clone)]
pub struct SenderRows(pub Arc<quern_db::Journal>);

impl SenderRows {
    /// Reads a row, changes it, writes it. The sender makes one change at a time.
    async fn change(&self, key: &str, change: impl FnOnce(&mut db::Intent) + Send) -> Result<(), JournalError> {
        let mut intent = self.0.intent(key).await.map_err(refusal)?.ok_or_else(|| JournalError::Missing { key: key.into() })?;
        change(&mut intent);
        self.0.update_intent(&intent).await.map_err(refusal)
    }
}

#[async_trait]
impl Journal for SenderRows {
    async fn get(&self, key: &str) -> Result<Option<Intent>, JournalError> {
        Ok(self.0.intent(key).await.map_err(refusal)?.map(from_row))
    }

    async fn unfinished(&self, from: Address) -> Result<Vec<Intent>, JournalError> {
        Ok(self.0.unfinished_intents(from).await.map_err(refusal)?.into_iter().map(from_row).collect())
    }

    async fn next_nonce(&self, from: Address) -> Result<Option<u64>, JournalError> {
        self.0.next_nonce(from).await.map_err(refusal)
    }

    async fn begin(&self, what: &NewIntent, nonce: u64) -> Result<(), JournalError> {
        let intent = db::Intent {
            key: what.key.clone(),
            signer: what.from,
            nonce,
            to: what.to,
            value_wei: what.value_wei,
            calldata: what.calldata.to_vec(),
            status: db::IntentStatus::Open,
            attempts: Vec::new(),
            mined: None,
        };
        self.0.insert_intent(&intent).await.map_err(refusal)
    }

    async fn attempt(&self, key: &str, attempt: &Attempt) -> Result<(), JournalError> {
        let row = db::Attempt {
            tx_hash: attempt.hash,
            raw: attempt.raw.to_vec(),
            max_fee_wei: attempt.fees.max_fee_per_gas,
            priority_fee_wei: attempt.fees.max_priority_fee_per_gas,
            gas_limit: attempt.gas_limit,
        };
        self.change(key, |intent| intent.attempts.push(row)).await
    }

    async fn mined(&self, key: &str, mined: &Mined) -> Result<(), JournalError> {
        let row = db::Mined {
            tx_hash: mined.tx_hash,
            block_number: mined.block.number,
            block_hash: mined.block.hash,
            succeeded: mined.succeeded,
        };
        self.change(key, |intent| {
            intent.status = db::IntentStatus::Mined;
            intent.mined = Some(row);
        })
        .await
    }

    async fn taken_back(&self, key: &str) -> Result<(), JournalError> {
        self.change(key, |intent| {
            intent.status = db::IntentStatus::Open;
            intent.mined = None;
        })
        .await
    }

    async fn finalized(&self, key: &str) -> Result<(), JournalError> {
        self.change(key, |intent| intent.status = db::IntentStatus::Final).await
    }
}

fn from_row(row: db::Intent) -> Intent {
    Intent {
        what: NewIntent { key: row.key, from: row.signer, to: row.to, value_wei: row.value_wei, calldata: row.calldata.into() },
        nonce: row.nonce,
        status: match row.status {
            db::IntentStatus::Open => IntentStatus::Open,
            db::IntentStatus::Mined => IntentStatus::Mined,
            db::IntentStatus::Final => IntentStatus::Final,
        },
        attempts: row
            .attempts
            .into_iter()
            .map(|attempt| Attempt {
                hash: attempt.tx_hash,
                gas_limit: attempt.gas_limit,
                fees: Fees { max_fee_per_gas: attempt.max_fee_wei, max_priority_fee_per_gas: attempt.priority_fee_wei },
                raw: attempt.raw.into(),
            })
            .collect(),
        mined: row.mined.map(|mined| Mined {
            tx_hash: mined.tx_hash,
            block: Cursor { number: mined.block_number, hash: mined.block_hash },
            succeeded: mined.succeeded,
        }),
    }
}

fn refusal(error: quern_db::Error) -> JournalError {
    match error {
        quern_db::Error::IntentExists { key } => JournalError::KeyExists { key },
        other => JournalError::Storage(Box::new(other)),
    }
}
