//! How Rust values stand in columns. The rules are in migrations/README.md; this is the only place that follows them.

use quern_types::{Address, Amount, B256};
use sqlx::{Row, sqlite::SqliteRow};

use crate::{Error, Result};

/// Width of a wide number: the digits of 2^128 - 1.
const WIDE_DIGITS: usize = 39;

/// A number that may exceed a signed 64-bit integer, as fixed-width decimal text that sorts like the number.
pub(crate) fn wide(number: u128) -> String {
    format!("{number:0WIDE_DIGITS$}")
}

/// An amount as a wide number.
pub(crate) fn amount(amount: Amount) -> String {
    wide(amount.units())
}

/// A number that we count ourselves, as an SQL integer.
pub(crate) fn integer(what: &'static str, value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Error::TooLarge { what, value })
}

/// A number that the contracts count, as an SQL integer. One past 2^63 is a lie that an alarm has named already; it is cut, not refused.
pub(crate) fn counted(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Reads columns of one table and names it where a value is not one that we write.
pub(crate) struct Reader<'r> {
    row: &'r SqliteRow,
    table: &'static str,
}

impl<'r> Reader<'r> {
    pub(crate) fn new(table: &'static str, row: &'r SqliteRow) -> Self {
        Self { row, table }
    }

    pub(crate) fn bad(&self, column: &'static str, what: impl ToString) -> Error {
        Error::bad_value(self.table, column, what)
    }

    fn get<T>(&self, column: &'static str) -> Result<T>
    where
        T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        self.row.try_get(column).map_err(|error| self.bad(column, error))
    }

    pub(crate) fn text(&self, column: &'static str) -> Result<&'r str> {
        self.get(column)
    }

    pub(crate) fn bytes(&self, column: &'static str) -> Result<&'r [u8]> {
        self.get(column)
    }

    pub(crate) fn signed(&self, column: &'static str) -> Result<i64> {
        self.get(column)
    }

    pub(crate) fn number(&self, column: &'static str) -> Result<u64> {
        let value: i64 = self.get(column)?;
        u64::try_from(value).map_err(|_| self.bad(column, value))
    }

    pub(crate) fn opt_number(&self, column: &'static str) -> Result<Option<u64>> {
        let value: Option<i64> = self.get(column)?;
        value.map(|value| u64::try_from(value).map_err(|_| self.bad(column, value))).transpose()
    }

    pub(crate) fn opt_text(&self, column: &'static str) -> Result<Option<&'r str>> {
        self.get(column)
    }

    pub(crate) fn yes(&self, column: &'static str) -> Result<bool> {
        match self.get::<i64>(column)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.bad(column, other)),
        }
    }

    pub(crate) fn wide(&self, column: &'static str) -> Result<u128> {
        let text: &str = self.get(column)?;
        if text.len() != WIDE_DIGITS || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(self.bad(column, "not 39 digits"));
        }
        text.parse().map_err(|_| self.bad(column, "past 128 bits"))
    }

    pub(crate) fn amount(&self, column: &'static str) -> Result<Amount> {
        self.wide(column).map(Amount::from_units)
    }

    pub(crate) fn hash(&self, column: &'static str) -> Result<B256> {
        let bytes: &[u8] = self.get(column)?;
        B256::try_from(bytes).map_err(|_| self.bad(column, format!("{} bytes, not 32", bytes.len())))
    }

    pub(crate) fn opt_hash(&self, column: &'static str) -> Result<Option<B256>> {
        let bytes: Option<&[u8]> = self.get(column)?;
        bytes.map(|bytes| B256::try_from(bytes).map_err(|_| self.bad(column, format!("{} bytes, not 32", bytes.len())))).transpose()
    }

    pub(crate) fn address(&self, column: &'static str) -> Result<Address> {
        let bytes: &[u8] = self.get(column)?;
        Address::try_from(bytes).map_err(|_| self.bad(column, format!("{} bytes, not 20", bytes.len())))
    }

    /// A value stored under its name; `parse` is the enumeration's own table.
    pub(crate) fn named<T>(&self, column: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T> {
        let text = self.text(column)?;
        parse(text).ok_or_else(|| self.bad(column, text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn wide_text_sorts_like_the_number(a: u128, b: u128) {
            prop_assert_eq!(wide(a).cmp(&wide(b)), a.cmp(&b));
            prop_assert_eq!(wide(a).len(), WIDE_DIGITS);
        }
    }

    #[test]
    fn integer_past_63_bits_is_refused_by_name() {
        assert_eq!(integer("nonce", u64::from(u32::MAX)).ok(), Some(4_294_967_295));
        let error = integer("nonce", 1 << 63).expect_err("does not fit");
        assert_eq!(error.to_string(), "nonce is 9223372036854775808, more than the database can hold (2^63 - 1)");
    }
}
