//! Rows of projections, alike for all tables: load by key, write many, delete many, and be remembered for an undo.

use std::{fmt::Debug, hash::Hash};

use quern_types::B256;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection, query_builder::Separated, sqlite::SqliteRow};

use super::change::Place;
use crate::{Error, Result};

/// Values of one row, comma-separated.
pub(crate) type Values<'q> = Separated<'q, Sqlite, &'static str>;

/// Most values in one statement; SQLite's default limit is 32,766.
const MOST_VALUES: usize = 8_000;

/// The log that last changed a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// Number of the block.
    pub number: u64,
    /// Hash of the block.
    pub hash: B256,
    /// Position of the log in the block.
    pub log_index: u64,
}

impl From<Place> for At {
    fn from(place: Place) -> Self {
        Self { number: place.block.number, hash: place.block.hash, log_index: place.log_index }
    }
}

/// One row of a projection's table.
pub(crate) trait Entity: Sized + Clone + PartialEq + Debug + Serialize + DeserializeOwned {
    /// What names the row.
    type Key: Copy + Eq + Ord + Hash + Debug + Serialize + DeserializeOwned;
    const TABLE: &'static str;
    /// The columns of the key.
    const KEY: &'static [&'static str];
    /// The other columns.
    const COLUMNS: &'static [&'static str];

    fn key(&self) -> Self::Key;
    /// Binds the columns of the key, in order.
    fn bind_key(key: &Self::Key, values: &mut Values<'_>);
    /// Binds the other columns, in order.
    fn bind(&self, values: &mut Values<'_>) -> Result<()>;
    fn read(row: &SqliteRow) -> Result<Self>;
}

/// Reads the rows with these keys; those that are not there are left out.
pub(crate) async fn load<E: Entity>(connection: &mut SqliteConnection, keys: &[E::Key]) -> Result<Vec<E>> {
    let mut found = Vec::with_capacity(keys.len());
    for chunk in keys.chunks(MOST_VALUES / E::KEY.len()) {
        let mut query = QueryBuilder::<Sqlite>::new(format!("SELECT * FROM {} WHERE ", E::TABLE));
        push_keys::<E>(&mut query, chunk);
        let rows = query.build().fetch_all(&mut *connection).await.map_err(Error::sql("reading projections"))?;
        for row in &rows {
            found.push(E::read(row)?);
        }
    }
    Ok(found)
}

/// Writes rows, new or not.
pub(crate) async fn save<E: Entity>(connection: &mut SqliteConnection, rows: &[&E]) -> Result<()> {
    let columns = E::KEY.iter().chain(E::COLUMNS).copied().collect::<Vec<_>>().join(", ");
    let updates = E::COLUMNS.iter().map(|column| format!("{column} = excluded.{column}")).collect::<Vec<_>>().join(", ");
    for chunk in rows.chunks(MOST_VALUES / (E::KEY.len() + E::COLUMNS.len())) {
        let mut query = QueryBuilder::<Sqlite>::new(format!("INSERT INTO {} ({columns}) VALUES ", E::TABLE));
        for (position, row) in chunk.iter().enumerate() {
            query.push(if position == 0 { "(" } else { ", (" });
            let mut values = query.separated(", ");
            E::bind_key(&row.key(), &mut values);
            row.bind(&mut values)?;
            query.push(")");
        }
        query.push(format!(" ON CONFLICT ({}) DO UPDATE SET {updates}", E::KEY.join(", ")));
        query.build().execute(&mut *connection).await.map_err(Error::sql("writing projections"))?;
    }
    Ok(())
}

/// Deletes the rows with these keys.
pub(crate) async fn delete<E: Entity>(connection: &mut SqliteConnection, keys: &[E::Key]) -> Result<()> {
    for chunk in keys.chunks(MOST_VALUES / E::KEY.len()) {
        let mut query = QueryBuilder::<Sqlite>::new(format!("DELETE FROM {} WHERE ", E::TABLE));
        push_keys::<E>(&mut query, chunk);
        query.build().execute(&mut *connection).await.map_err(Error::sql("deleting projections"))?;
    }
    Ok(())
}

/// `(a, b) IN (VALUES (?, ?), ...)`
fn push_keys<E: Entity>(query: &mut QueryBuilder<Sqlite>, keys: &[E::Key]) {
    query.push(format!("({}) IN (VALUES ", E::KEY.join(", ")));
    for (position, key) in keys.iter().enumerate() {
        query.push(if position == 0 { "(" } else { ", (" });
        E::bind_key(key, &mut query.separated(", "));
        query.push(")");
    }
    query.push(")");
}
