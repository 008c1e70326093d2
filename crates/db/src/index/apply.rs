//! Batches of blocks in, blocks that the chain took back out: each one transaction.

use std::collections::HashMap;

use quern_types::{BlockRef, Heads, JobState};
use serde::de::DeserializeOwned;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection, sqlite::SqliteRow};

use super::{
    Index,
    change::{Batch, Block, Change, Event},
    entity::{self, Entity},
    fold::{Alarm, Keys, Rows, Undo, Working},
    rows::{Balance, Job, Ledger, Model, Price, Provider},
};
use crate::{
    Error, Result,
    value::{Reader, amount, counted, integer},
};

/// Rows of raw tables in one statement: 10 to 14 values each.
const ROWS_PER_STATEMENT: usize = 500;

/// What a batch did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Last block applied; `None` while there is none.
    pub cursor: Option<BlockRef>,
    /// Rules that the batch's events broke.
    pub alarms: Vec<Alarm>,
}

/// The one row of `cursor`.
pub(super) struct Cursor {
    pub(super) block: Option<BlockRef>,
    pub(super) heads: Option<Heads>,
    pub(super) undo_floor: u64,
}

/// Reads the cursor. A missing row is damage, never "none".
pub(super) async fn read_cursor(connection: &mut SqliteConnection) -> Result<Cursor> {
    let row = sqlx::query("SELECT * FROM cursor WHERE id = 1")
        .fetch_optional(connection)
        .await
        .map_err(Error::sql("reading the cursor"))?
        .ok_or_else(|| Error::bad_value("cursor", "id", "the row is missing"))?;
    let row = Reader::new("cursor", &row);
    let block = match row.opt_number("block_number")? {
        None => None,
        Some(number) => Some(BlockRef { number, hash: row.hash("block_hash")?, timestamp: row.number("block_at")? }),
    };
    let heads = row.opt_text("heads")?.map(|text| serde_json::from_str(text).map_err(|error| row.bad("heads", error))).transpose()?;
    Ok(Cursor { block, heads, undo_floor: row.number("undo_floor")? })
}

async fn write_cursor(connection: &mut SqliteConnection, cursor: &Cursor) -> Result<()> {
    let heads = cursor.heads.map(|heads| serde_json::to_string(&heads)).transpose();
    sqlx::query("UPDATE cursor SET block_number = ?, block_hash = ?, block_at = ?, heads = ?, undo_floor = ? WHERE id = 1")
        .bind(cursor.block.map(|block| integer("block number", block.number)).transpose()?)
        .bind(cursor.block.map(|block| block.hash.to_vec()))
        .bind(cursor.block.map(|block| integer("block time", block.timestamp)).transpose()?)
        .bind(heads.map_err(|error| Error::bad_value("cursor", "heads", error))?)
        .bind(integer("undo floor", cursor.undo_floor)?)
        .execute(connection)
        .await
        .map_err(Error::sql("writing the cursor"))?;
    Ok(())
}

impl Index {
    /// Applies blocks that follow the cursor: raw rows, projections, undo images, blocks and cursor in one transaction.
    ///
    /// # Errors
    /// [`Error::NotNext`] where the batch does not follow; the database fails. Nothing is written then.
    pub async fn apply(&self, batch: &Batch) -> Result<Applied> {
        let mut transaction = self.database.begin().await?;
        let cursor = read_cursor(&mut transaction).await?;
        self.check_follows(&cursor, batch)?;
        // REORG: finalized blocks never go back, so the floor only rises, and blocks at or below it need no undo images.
        let undo_floor = cursor.undo_floor.max(batch.heads.finalized.number);
        let mut working = Working::new(self.ledger_genesis(), undo_floor);
        load(&mut transaction, &mut working, &batch.events).await?;
        let states: Vec<Option<JobState>> = batch.events.iter().map(|event| working.apply(event)).collect();

        insert_events(&mut transaction, &batch.events, &states).await?;
        insert_moves(&mut transaction, &batch.events).await?;
        insert_alarms(&mut transaction, &working.alarms).await?;
        store(&mut transaction, &working.jobs).await?;
        store(&mut transaction, &working.providers).await?;
        store(&mut transaction, &working.prices).await?;
        store(&mut transaction, &working.models).await?;
        store(&mut transaction, &working.balances).await?;
        store(&mut transaction, &working.ledger).await?;
        insert_undo(&mut transaction, &working.undo().map_err(|error| Error::bad_value("undo", "image", error))?).await?;
        let block = batch.blocks.last().map(|block| block.at).or(cursor.block);
        insert_blocks(&mut transaction, &batch.blocks, undo_floor).await?;
        prune(&mut transaction, undo_floor, block).await?;
        write_cursor(&mut transaction, &Cursor { block, heads: Some(batch.heads), undo_floor }).await?;
        transaction.commit().await.map_err(Error::sql("committing a batch"))?;
        Ok(Applied { cursor: block, alarms: working.alarms })
    }

    /// REORG: takes back every block above `to`, in one transaction. `to` is a block of the window, the block before the first one (then everything
    /// is taken back), or at or above the cursor (then only the heads are written).
    ///
    /// # Errors
    /// [`Error::CannotUnwind`] where `to` is no such block or lies below the undo floor; the database fails. Nothing is written then.
    pub async fn unwind(&self, to: BlockRef, heads: Heads) -> Result<Applied> {
        let mut transaction = self.database.begin().await?;
        let cursor = read_cursor(&mut transaction).await?;
        let undo_floor = cursor.undo_floor;
        let block = match cursor.block {
            None => None,
            Some(_) if to.number < self.binding().first_block => {
                // What lies before the first event can change without limit: begin again.
                clear(&mut transaction).await?;
                write_cursor(&mut transaction, &Cursor { block: None, heads: Some(heads), undo_floor: 0 }).await?;
                transaction.commit().await.map_err(Error::sql("committing an unwind"))?;
                return Ok(Applied { cursor: None, alarms: Vec::new() });
            }
            Some(last) => {
                self.check_unwind(&mut transaction, to, last, undo_floor).await?;
                Some(to)
            }
        };
        restore(&mut transaction, to.number).await?;
        for sql in [
            "DELETE FROM event WHERE block_number > ?",
            "DELETE FROM ledger_move WHERE block_number > ?",
            "DELETE FROM alarm WHERE block_number > ?",
            "DELETE FROM undo WHERE block_number > ?",
            "DELETE FROM block WHERE number > ?",
        ] {
            let above = integer("block number", to.number)?;
            sqlx::query(sql).bind(above).execute(&mut *transaction).await.map_err(Error::sql("taking back raw rows"))?;
        }
        write_cursor(&mut transaction, &Cursor { block, heads: Some(heads), undo_floor }).await?;
        transaction.commit().await.map_err(Error::sql("committing an unwind"))?;
        Ok(Applied { cursor: block, alarms: Vec::new() })
    }

    fn check_follows(&self, cursor: &Cursor, batch: &Batch) -> Result<()> {
        let mut last = cursor.block;
        let refuse = |block: &BlockRef, last: Option<BlockRef>, what| {
            let last = last.map_or_else(|| "none".to_owned(), |last| format!("{} ({})", last.number, last.hash));
            Err(Error::NotNext { next: block.number, hash: block.hash, last, what })
        };
        for block in &batch.blocks {
            let expected = last.map_or(self.binding().first_block, |last| last.number + 1);
            if block.at.number != expected {
                return refuse(&block.at, last, "its number is not the next one");
            }
            if last.is_some_and(|last| last.hash != block.parent) {
                return refuse(&block.at, last, "its parent is another block");
            }
            last = Some(block.at);
        }
        let mut blocks = batch.blocks.iter().map(|block| block.at).peekable();
        let mut before = None;
        for event in &batch.events {
            let place = (event.place.block.number, event.place.log_index);
            while blocks.next_if(|block| block.number < place.0).is_some() {}
            if blocks.peek() != Some(&event.place.block) {
                return refuse(&event.place.block, last, "an event lies in it, but it is not in the batch");
            }
            if before.is_some_and(|before| before >= place) {
                return refuse(&event.place.block, last, "its events are out of order");
            }
            before = Some(place);
        }
        Ok(())
    }

    async fn check_unwind(&self, connection: &mut SqliteConnection, to: BlockRef, last: BlockRef, undo_floor: u64) -> Result<()> {
        let refuse = |why| Err(Error::CannotUnwind { to: to.number, hash: to.hash, why, path: self.path().to_owned() });
        if to.number < undo_floor.min(last.number) {
            return refuse(format!("the index took block {undo_floor} for finalized"));
        }
        let known: Option<Vec<u8>> = sqlx::query_scalar("SELECT hash FROM block WHERE number = ?")
            .bind(integer("block number", to.number)?)
            .fetch_optional(connection)
            .await
            .map_err(Error::sql("reading a block"))?;
        match known {
            Some(hash) if hash == to.hash.as_slice() => Ok(()),
            Some(hash) => refuse(format!("the index has another block there (0x{})", hex(&hash))),
            None => refuse(format!("the index has no block there; its last is {}", last.number)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

async fn load(connection: &mut SqliteConnection, working: &mut Working, events: &[Event]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut keys = Keys::of(events);
    let jobs: Vec<Job> = entity::load(connection, &keys.jobs).await?;
    keys.add_models_of(&jobs);
    working.jobs.fill(jobs);
    working.providers.fill(entity::load(connection, &keys.providers).await?);
    working.prices.fill(entity::load(connection, &keys.prices).await?);
    working.models.fill(entity::load(connection, &keys.models).await?);
    working.balances.fill(entity::load(connection, &keys.balances).await?);
    working.ledger.fill(entity::load(connection, &[1]).await?);
    Ok(())
}

async fn store<E: Entity>(connection: &mut SqliteConnection, rows: &Rows<E>) -> Result<()> {
    let (rows, gone) = rows.result();
    entity::save(connection, &rows).await?;
    entity::delete::<E>(connection, &gone).await
}

async fn insert_events(connection: &mut SqliteConnection, events: &[Event], states: &[Option<JobState>]) -> Result<()> {
    let rows: Vec<(&Event, Option<JobState>)> = events.iter().zip(states.iter().copied()).filter(|(event, _)| !is_move(event)).collect();
    for chunk in rows.chunks(ROWS_PER_STATEMENT) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO event (block_number, block_hash, block_at, log_index, tx_hash, contract, name, job_id, state, body) VALUES ",
        );
        for (position, (event, state)) in chunk.iter().enumerate() {
            query.push(if position == 0 { "(" } else { ", (" });
            let place = event.place;
            let mut values = query.separated(", ");
            values.push_bind(integer("block number", place.block.number)?);
            values.push_bind(place.block.hash.to_vec());
            values.push_bind(integer("block time", place.block.timestamp)?);
            values.push_bind(integer("log index", place.log_index)?);
            values.push_bind(place.tx_hash.to_vec());
            values.push_bind(event.contract.to_vec());
            values.push_bind(event.change.name().to_owned());
            values.push_bind(event.change.job().map(|job| job.0.to_vec()));
            values.push_bind(state.map(JobState::name));
            values.push_bind(serde_json::to_string(&event.change).map_err(|error| Error::bad_value("event", "body", error))?);
            query.push(")");
        }
        query.build().execute(&mut *connection).await.map_err(Error::sql("writing events"))?;
    }
    Ok(())
}

fn is_move(event: &Event) -> bool {
    matches!(event.change, Change::Moved { .. })
}

async fn insert_moves(connection: &mut SqliteConnection, events: &[Event]) -> Result<()> {
    let rows: Vec<&Event> = events.iter().filter(|event| is_move(event)).collect();
    for chunk in rows.chunks(ROWS_PER_STATEMENT) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO ledger_move (block_number, block_hash, block_at, log_index, tx_hash, seq, from_account, from_bucket, to_account, to_bucket, \
             amount, reason, reference, head) VALUES ",
        );
        for (position, event) in chunk.iter().enumerate() {
            let Change::Moved { entry, head } = &event.change else { continue };
            query.push(if position == 0 { "(" } else { ", (" });
            let place = event.place;
            let mut values = query.separated(", ");
            values.push_bind(integer("block number", place.block.number)?);
            values.push_bind(place.block.hash.to_vec());
            values.push_bind(integer("block time", place.block.timestamp)?);
            values.push_bind(integer("log index", place.log_index)?);
            values.push_bind(place.tx_hash.to_vec());
            values.push_bind(counted(entry.seq));
            values.push_bind(entry.from.to_vec());
            values.push_bind(entry.from_bucket.name());
            values.push_bind(entry.to.to_vec());
            values.push_bind(entry.to_bucket.name());
            values.push_bind(amount(entry.amount));
            values.push_bind(entry.reason.name());
            values.push_bind(entry.reference.to_vec());
            values.push_bind(head.to_vec());
            query.push(")");
        }
        query.build().execute(&mut *connection).await.map_err(Error::sql("writing ledger moves"))?;
    }
    Ok(())
}

async fn insert_alarms(connection: &mut SqliteConnection, alarms: &[Alarm]) -> Result<()> {
    let mut position = 0i64;
    let mut last = None;
    for alarm in alarms {
        position = if last == Some(alarm.at) { position + 1 } else { 0 };
        last = Some(alarm.at);
        sqlx::query("INSERT INTO alarm (block_number, block_hash, log_index, position, kind, detail) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(integer("block number", alarm.at.number)?)
            .bind(alarm.at.hash.as_slice())
            .bind(integer("log index", alarm.at.log_index)?)
            .bind(position)
            .bind(alarm.kind)
            .bind(&alarm.detail)
            .execute(&mut *connection)
            .await
            .map_err(Error::sql("writing an alarm"))?;
    }
    Ok(())
}

async fn insert_undo(connection: &mut SqliteConnection, undo: &[Undo]) -> Result<()> {
    let mut position = 0i64;
    let mut block = None;
    for chunk in undo.chunks(ROWS_PER_STATEMENT) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO undo (block_number, position, kind, key, image) VALUES ");
        for (index, undo) in chunk.iter().enumerate() {
            position = if block == Some(undo.block) { position + 1 } else { 0 };
            block = Some(undo.block);
            query.push(if index == 0 { "(" } else { ", (" });
            let mut values = query.separated(", ");
            values.push_bind(integer("block number", undo.block)?);
            values.push_bind(position);
            values.push_bind(undo.table);
            values.push_bind(undo.key.clone());
            values.push_bind(undo.image.clone());
            query.push(")");
        }
        query.build().execute(&mut *connection).await.map_err(Error::sql("writing undo images"))?;
    }
    Ok(())
}

/// Only the window is kept: the blocks from the undo floor on, and always the last one.
async fn insert_blocks(connection: &mut SqliteConnection, blocks: &[Block], undo_floor: u64) -> Result<()> {
    let last = blocks.last().map(|block| block.at.number);
    let window: Vec<&Block> = blocks.iter().filter(|block| block.at.number >= undo_floor || Some(block.at.number) == last).collect();
    for chunk in window.chunks(ROWS_PER_STATEMENT) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO block (number, hash, parent_hash, block_at) VALUES ");
        for (position, block) in chunk.iter().enumerate() {
            query.push(if position == 0 { "(" } else { ", (" });
            let mut values = query.separated(", ");
            values.push_bind(integer("block number", block.at.number)?);
            values.push_bind(block.at.hash.to_vec());
            values.push_bind(block.parent.to_vec());
            values.push_bind(integer("block time", block.at.timestamp)?);
            query.push(")");
        }
        query.build().execute(&mut *connection).await.map_err(Error::sql("writing blocks"))?;
    }
    Ok(())
}

async fn prune(connection: &mut SqliteConnection, undo_floor: u64, cursor: Option<BlockRef>) -> Result<()> {
    let Some(cursor) = cursor else { return Ok(()) };
    let doing = "forgetting what is finalized";
    sqlx::query("DELETE FROM undo WHERE block_number <= ?")
        .bind(integer("undo floor", undo_floor)?)
        .execute(&mut *connection)
        .await
        .map_err(Error::sql(doing))?;
    sqlx::query("DELETE FROM block WHERE number < ?")
        .bind(integer("undo floor", undo_floor.min(cursor.number))?)
        .execute(&mut *connection)
        .await
        .map_err(Error::sql(doing))?;
    Ok(())
}

async fn clear(connection: &mut SqliteConnection) -> Result<()> {
    for sql in [
        "DELETE FROM event",
        "DELETE FROM ledger_move",
        "DELETE FROM alarm",
        "DELETE FROM undo",
        "DELETE FROM block",
        "DELETE FROM job",
        "DELETE FROM provider",
        "DELETE FROM price",
        "DELETE FROM model",
        "DELETE FROM balance",
        "DELETE FROM ledger",
    ] {
        sqlx::query(sql).execute(&mut *connection).await.map_err(Error::sql("beginning the index again"))?;
    }
    Ok(())
}

/// Puts every row back that a block above `to` touched: of all its images the oldest one.
async fn restore(connection: &mut SqliteConnection, to: u64) -> Result<()> {
    let rows = sqlx::query("SELECT kind, key, image FROM undo WHERE block_number > ? ORDER BY block_number DESC, position DESC")
        .bind(integer("block number", to)?)
        .fetch_all(&mut *connection)
        .await
        .map_err(Error::sql("reading undo images"))?;
    restore_table::<Job>(connection, &rows).await?;
    restore_table::<Provider>(connection, &rows).await?;
    restore_table::<Price>(connection, &rows).await?;
    restore_table::<Model>(connection, &rows).await?;
    restore_table::<Balance>(connection, &rows).await?;
    restore_table::<Ledger>(connection, &rows).await
}

async fn restore_table<E: Entity>(connection: &mut SqliteConnection, rows: &[SqliteRow]) -> Result<()> {
    let mut images: HashMap<E::Key, Option<E>> = HashMap::new();
    for row in rows.iter().filter(|row| row.try_get::<&str, _>("kind").is_ok_and(|kind| kind == E::TABLE)) {
        let row = Reader::new("undo", row);
        let key = parse(&row, "key", row.text("key")?)?;
        let image = row.opt_text("image")?.map(|image| parse(&row, "image", image)).transpose()?;
        // Newest first: the last one written for a key is its oldest.
        images.insert(key, image);
    }
    let gone: Vec<E::Key> = images.iter().filter(|(_, image)| image.is_none()).map(|(key, _)| *key).collect();
    let kept: Vec<&E> = images.values().flatten().collect();
    entity::save(connection, &kept).await?;
    entity::delete::<E>(connection, &gone).await
}

fn parse<T: DeserializeOwned>(row: &Reader<'_>, column: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| row.bad(column, error))
}
