use super::{BlobError, Expected, reader::Reader};
use crate::{
    CommitError,
    error::as_u32,
    sum_tree::{SumNode, SumTree},
    vector::Elements,
};

const MAGIC: &str = "QIN1";

/// The items of a job: each a list of ids, empty ones included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSet {
    items: Vec<Vec<u32>>,
}

impl InputSet {
    /// These items in this order.
    ///
    /// # Errors
    /// No items, or more items or ids in an item than a u32 counts.
    pub fn new(items: Vec<Vec<u32>>) -> Result<Self, CommitError> {
        as_u32("items", items.len())?;
        if items.is_empty() {
            return Err(CommitError::NoLeaves);
        }
        for item in &items {
            as_u32("ids", item.len())?;
        }
        Ok(Self { items })
    }

    /// The items.
    #[must_use]
    pub fn items(&self) -> &[Vec<u32>] {
        &self.items
    }

    /// The items, taken.
    #[must_use]
    pub fn into_items(self) -> Vec<Vec<u32>> {
        self.items
    }

    /// The input tree.
    ///
    /// # Errors
    /// The counts overflow 64 bits; no set in memory does.
    pub fn tree(&self) -> Result<SumTree, CommitError> {
        let leaf = |(item, ids): (u32, &Vec<u32>)| Ok(SumNode::input(item, as_u32("ids", ids.len())?, &Elements::U32(ids).hash()));
        SumTree::new((0..).zip(&self.items).map(leaf).collect::<Result<_, CommitError>>()?)
    }

    /// The blob: "QIN1", item count, the length of each item, all ids.
    #[must_use]
    pub fn to_blob(&self) -> Vec<u8> {
        let mut blob = MAGIC.as_bytes().to_vec();
        // Checked when the set was made.
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        blob.extend(number(self.items.len()));
        blob.extend(self.items.iter().flat_map(|item| number(item.len())));
        blob.extend(self.items.iter().flatten().flat_map(|id| id.to_be_bytes()));
        blob
    }

    /// Reads a blob and holds it to the job's root, length and item count.
    ///
    /// # Errors
    /// The bytes are malformed, or are not what the job committed to.
    pub fn from_blob(bytes: &[u8], expected: &Expected) -> Result<Self, BlobError> {
        let mut reader = Reader::new(bytes, MAGIC)?;
        let count = reader.u32("the item count")?;
        expected.check_leaves("items", count)?;
        let lengths = reader.numbers::<4>("the lengths", count)?;
        let mut items = Vec::with_capacity(lengths.len());
        for &length in lengths {
            let ids = reader.numbers::<4>("the ids of an item", u32::from_be_bytes(length))?;
            items.push(ids.iter().map(|&id| u32::from_be_bytes(id)).collect());
        }
        reader.end()?;
        let set = Self::new(items)?;
        expected.check_root(set.tree()?.root())?;
        Ok(set)
    }
}
