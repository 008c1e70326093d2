//! What a client of the market does: prepare, post, wait for, fetch and check jobs.
//!
//! | part | what |
//! |---|---|
//! | [`pieces`], [`items`] | text to items; nothing is cut silently |
//! | [`batches`], [`job_spec`], [`Ask`], [`Terms`] | items to jobs, and what they cost at most |
//! | [`PreparedInput`], [`fetch_output`] | the bytes, and what commits to them |
//! | [`RunJournal`], [`FileJournal`] | what must survive a crash: runs, and transactions |
//! | [`Market`], [`Actor`] | reads and acts of one account |
//! | [`Follower`], [`Facts`] | what the canonical chain says, through reorganisations |
//! | [`Drive`] | a run from its plan to its results |
//! | [`publish_package`], [`fetch_package`] | model packages in the content store |
//! | [`advice()`] | who must act on a job, until when, and which money waits |

mod advice;
mod batch;
mod content;
mod drive;
mod error;
mod fetches;
#[cfg(test)]
mod fixture;
mod follow;
mod intents;
mod items;
mod journal;
mod market;
mod package;

pub use advice::{Action, Advice, Who, advice};
pub use batch::{Ask, InputRef, MAX_ITEMS, Sampling, Terms, batches, job_spec, salt, with_id};
pub use content::{MAX_OUTPUT_BYTES, OutputShape, PreparedInput, check_output, fetch_output};
pub use drive::{Drive, DriveOptions, End, Update, layered};
pub use error::ClientError;
pub use follow::{Claim, Facts, Follower, JobLife, JobStep, ListedModel, Provider, Scope, Settlement};
pub use intents::FileJournal;
pub use items::{Item, Limits, Origin, Piece, Tokenize, Unit, items, pieces};
pub use journal::{PlannedJob, Run, RunJournal};
pub use market::{Actor, Balances, Market, keys};
pub use package::{fetch_package, publish_package};
