//! The least that a worker works for.

use quern_types::{Amount, JobKind, ModelId};
use sqlx::sqlite::SqliteRow;

use super::Journal;
use crate::{
    Error, Result,
    open::now_ms,
    value::{Reader, amount},
};

/// The least that a worker works for on one model, in the token's smallest unit. The units are those of the job specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PriceEntry {
    /// The model.
    pub model: ModelId,
    /// The kind of job.
    pub kind: JobKind,
    /// Per job.
    pub base: Amount,
    /// Per input id.
    pub input: Amount,
    /// Per output id.
    pub output: Amount,
    /// Per item.
    pub item: Amount,
}

impl Journal {
    /// Sets a price; one for the same model and kind is replaced.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_price(&self, price: &PriceEntry) -> Result<()> {
        let doing = "setting a price";
        let mut transaction = self.database.begin().await?;
        sqlx::query(
            "INSERT INTO price (model_id, kind, base_amount, input_amount, output_amount, item_amount, updated_ms) VALUES (?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (model_id, kind) DO UPDATE SET base_amount = excluded.base_amount, input_amount = excluded.input_amount, \
             output_amount = excluded.output_amount, item_amount = excluded.item_amount, updated_ms = excluded.updated_ms",
        )
        .bind(price.model.0.as_slice())
        .bind(price.kind.name())
        .bind(amount(price.base))
        .bind(amount(price.input))
        .bind(amount(price.output))
        .bind(amount(price.item))
        .bind(now_ms())
        .execute(&mut *transaction)
        .await
        .map_err(Error::sql(doing))?;
        transaction.commit().await.map_err(Error::sql(doing))
    }

    /// Takes a price off the list; whether there was one.
    ///
    /// # Errors
    /// The database fails.
    pub async fn remove_price(&self, model: ModelId, kind: JobKind) -> Result<bool> {
        let doing = "removing a price";
        let mut transaction = self.database.begin().await?;
        let removed = sqlx::query("DELETE FROM price WHERE model_id = ? AND kind = ?")
            .bind(model.0.as_slice())
            .bind(kind.name())
            .execute(&mut *transaction)
            .await
            .map_err(Error::sql(doing))?;
        transaction.commit().await.map_err(Error::sql(doing))?;
        Ok(removed.rows_affected() == 1)
    }

    /// The price of a model, or `None` where the worker does not offer it.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn price(&self, model: ModelId, kind: JobKind) -> Result<Option<PriceEntry>> {
        Ok(self.prices().await?.into_iter().find(|price| price.model == model && price.kind == kind))
    }

    /// The whole list, by model and kind.
    ///
    /// # Errors
    /// The database fails or holds what we never write.
    pub async fn prices(&self) -> Result<Vec<PriceEntry>> {
        let rows = sqlx::query("SELECT * FROM price ORDER BY model_id, kind")
            .fetch_all(self.database.readers())
            .await
            .map_err(Error::sql("reading prices"))?;
        rows.iter().map(entry).collect()
    }
}

fn entry(row: &SqliteRow) -> Result<PriceEntry> {
    let row = Reader::new("price", row);
    Ok(PriceEntry {
        model: ModelId(row.hash("model_id")?),
        kind: row.named("kind", |name| JobKind::ALL.iter().copied().find(|kind| kind.name() == name))?,
        base: row.amount("base_amount")?,
        input: row.amount("input_amount")?,
        output: row.amount("output_amount")?,
        item: row.amount("item_amount")?,
    })
}
