//! What the tests of this crate share: a folder of their own, a journal, a specification.

use std::path::{Path, PathBuf};

use quern_db::journal::{Journal, JournalBinding};
use quern_types::{Address, Amount, B256, ContentCodec, ContentId, JobId, JobKind, JobSpec, ModelId};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

pub(crate) fn binding() -> JournalBinding {
    JournalBinding { chain_id: 901, genesis_hash: B256::repeat_byte(7), market: Address::repeat_byte(9) }
}

pub(crate) async fn open(path: &Path) -> Journal {
    Journal::open(path, &binding()).await.expect("the journal opens")
}

pub(crate) fn file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("journal.db")
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

pub(crate) fn job(byte: u8) -> JobId {
    JobId(B256::repeat_byte(byte))
}

pub(crate) fn spec(byte: u8) -> JobSpec {
    JobSpec {
        client: Address::repeat_byte(byte),
        model_id: ModelId(B256::repeat_byte(2)),
        kind: JobKind::Embed,
        item_count: 3,
        samples_per_item: 1,
        input_root: B256::repeat_byte(3),
        input_len: u64::MAX,
        max_output: 0,
        stop_ids: [0; 8],
        temperature: 0,
        min_p: 0,
        seed: B256::ZERO,
        base_price: Amount::from_units((1 << 96) - 1),
        input_price: Amount::ZERO,
        output_price: Amount::ZERO,
        item_price: Amount::from_units(10),
        ramp_floor_bps: 5_000,
        ramp_secs: 100,
        claim_by: u64::MAX,
        deliver_within: 60,
        designated: Address::ZERO,
        input: ContentId { codec: ContentCodec::Raw, digest: B256::repeat_byte(4) },
        salt: B256::repeat_byte(byte),
    }
}

/// Runs a statement on a file as another program would.
pub(crate) async fn with_sql(path: &Path, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.expect("opens");
    sqlx::raw_sql(sql).execute(&mut connection).await.expect("the statement runs");
    connection.close().await.expect("closes");
}
