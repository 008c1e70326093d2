//! The envelope of every answer, and what all rows share.

use axum::Json;
use quern_db::index::{At, Place, Snapshot};
use quern_types::{Address, B256, BlockRef, Head, Heads};
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;

/// A block.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct BlockView {
    /// Height.
    number: u64,
    /// Hash of the header.
    #[schema(value_type = String)]
    hash: B256,
    /// Time, Unix seconds.
    timestamp: u64,
}

impl From<BlockRef> for BlockView {
    fn from(block: BlockRef) -> Self {
        Self { number: block.number, hash: block.hash, timestamp: block.timestamp }
    }
}

/// The heads that an answer stands under.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct HeadView {
    /// Newest block that the chain had when the index last heard of it.
    latest: BlockView,
    /// Newest block derived from L1 data.
    safe: BlockView,
    /// Newest block that cannot go back.
    finalized: BlockView,
    /// The block up to which the data of this answer is complete; below `latest` while the index catches up.
    indexed: BlockView,
}

/// An answer: one committed state of the index.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Answer<T> {
    /// The heads it stands under.
    head: HeadView,
    /// What was asked for.
    data: T,
    /// Where the next page begins; absent in answers that have no pages, null on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    next: Option<Option<String>>,
}

/// The heads of a snapshot, or a refusal while nothing was indexed yet.
pub(super) fn heads(snapshot: &Snapshot) -> Result<(Heads, HeadView), Problem> {
    let (Some(heads), Some(cursor)) = (snapshot.heads(), snapshot.cursor()) else { return Err(Problem::not_started()) };
    let view = HeadView { latest: heads.latest.into(), safe: heads.safe.into(), finalized: heads.finalized.into(), indexed: cursor.into() };
    Ok((heads, view))
}

/// An answer without pages.
pub(super) fn whole<T>(head: HeadView, data: T) -> Json<Answer<T>> {
    Json(Answer { head, data, next: None })
}

/// A page: of up to `limit + 1` rows that were read, `limit` are shown, and one more says that there is a next page.
pub(super) fn page<R, V>(
    head: HeadView,
    mut rows: Vec<R>,
    limit: u32,
    cursor: impl Fn(&R) -> String,
    view: impl Fn(R) -> V,
) -> Json<Answer<Vec<V>>> {
    let limit = limit as usize;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = if more { rows.last().map(cursor) } else { None };
    Json(Answer { head, data: rows.into_iter().map(view).collect(), next: Some(next) })
}

/// How firmly a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum HeadName {
    /// Seen; may go back.
    Latest,
    /// Goes back only if the L1 does.
    Safe,
    /// Never goes back.
    Finalized,
}

impl HeadName {
    pub(super) fn of(heads: &Heads, number: u64) -> Self {
        match heads.of(number) {
            Head::Latest => Self::Latest,
            Head::Safe => Self::Safe,
            Head::Finalized => Self::Finalized,
        }
    }
}

/// Where a row last changed, and how firmly that stands.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct ChangedView {
    /// How firmly it stands.
    head: HeadName,
    /// Height of the block.
    block_number: u64,
    /// Hash of the block.
    #[schema(value_type = String)]
    block_hash: B256,
    /// Position of the log in the block.
    log_index: u64,
}

impl ChangedView {
    pub(super) fn new(heads: &Heads, at: At) -> Self {
        Self { head: HeadName::of(heads, at.number), block_number: at.number, block_hash: at.hash, log_index: at.log_index }
    }
}

/// Where something happened, and how firmly that stands.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct PlaceView {
    /// How firmly it stands.
    head: HeadName,
    /// Height of the block.
    block_number: u64,
    /// Hash of the block.
    #[schema(value_type = String)]
    block_hash: B256,
    /// Time of the block, Unix seconds.
    timestamp: u64,
    /// Position of the log in the block.
    log_index: u64,
    /// The transaction.
    #[schema(value_type = String)]
    tx_hash: B256,
}

impl PlaceView {
    pub(super) fn new(heads: &Heads, place: Place) -> Self {
        Self {
            head: HeadName::of(heads, place.block.number),
            block_number: place.block.number,
            block_hash: place.block.hash,
            timestamp: place.block.timestamp,
            log_index: place.log_index,
            tx_hash: place.tx_hash,
        }
    }
}

/// An address that may be nobody's: the zero address is null.
pub(super) fn somebody(address: Address) -> Option<Address> {
    (address != Address::ZERO).then_some(address)
}
