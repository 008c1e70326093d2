//! One dag-pb node that is a UnixFS file, or a part of one. Total: any bytes give a node or a [`DagFault`].
//!
//! Schemas: <https://ipld.io/specs/codecs/dag-pb/spec/>, <https://specs.ipfs.tech/unixfs/>.

use alloy_primitives::B256;
use bytes::Bytes;
use quern_types::{ContentCodec, ContentId};

use crate::DagFault;

/// A node of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// A part of the content.
    Leaf(Bytes),
    /// Parts in order.
    Branch(Branch),
}

/// A node with children.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Branch {
    /// Length of the content below, in bytes; the sum of the children's.
    pub(crate) size: u64,
    /// At least one.
    pub(crate) children: Vec<Child>,
}

/// A link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) id: ContentId,
    /// Length of the content below, in bytes; at least 1, so that a file has no more blocks than bytes.
    pub(crate) size: u64,
}

const TYPE_RAW: u64 = 0;
const TYPE_FILE: u64 = 2;

impl Node {
    /// Reads the dag-pb block `block`.
    pub(crate) fn parse(block: &Bytes) -> Result<Self, DagFault> {
        let (mut ids, mut data) = (Vec::new(), None);
        let mut fields = Fields(block);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (2, Value::Bytes(link)) => ids.push(link_id(link, ids.len())?),
                (1, Value::Bytes(bytes)) if data.is_none() => data = Some(bytes),
                (1, _) => return Err(DagFault::Malformed("the data field is twice there or not bytes")),
                _ => return Err(DagFault::Malformed("a field that dag-pb does not have")),
            }
        }
        let file = UnixFs::parse(data.ok_or(DagFault::Malformed("no data field"))?)?;
        match file.kind {
            TYPE_RAW | TYPE_FILE => {}
            other => return Err(DagFault::NotAFile(other)),
        }
        if ids.is_empty() { file.leaf(block) } else { file.branch(ids) }
    }
}

/// The UnixFS message in the data field.
#[derive(Default)]
struct UnixFs<'a> {
    kind: u64,
    data: &'a [u8],
    file_size: Option<u64>,
    block_sizes: Vec<u64>,
}

impl<'a> UnixFs<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, DagFault> {
        let mut kind = None;
        let mut file = UnixFs::default();
        let mut fields = Fields(message);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Number(number)) => kind = Some(number),
                (2, Value::Bytes(bytes)) => file.data = bytes,
                (3, Value::Number(number)) => file.file_size = Some(number),
                (4, Value::Number(number)) => file.block_sizes.push(number),
                (4, Value::Bytes(packed)) => {
                    let mut packed = Fields(packed);
                    while !packed.0.is_empty() {
                        file.block_sizes.push(packed.varint()?);
                    }
                }
                (1..=4, _) => return Err(DagFault::Malformed("a UnixFS field of the wrong type")),
                // Mode, time, fan-out and what is yet to come do not change the content.
                _ => {}
            }
        }
        file.kind = kind.ok_or(DagFault::Malformed("no UnixFS type"))?;
        Ok(file)
    }

    fn leaf(self, block: &Bytes) -> Result<Node, DagFault> {
        let parts = self.data.len() as u64;
        if !self.block_sizes.is_empty() {
            return Err(DagFault::Malformed("sizes of parts, but no links"));
        }
        match self.file_size {
            Some(says) if says != parts => Err(DagFault::Sum { says, parts }),
            // An empty slice need not lie inside the block.
            _ if self.data.is_empty() => Ok(Node::Leaf(Bytes::new())),
            _ => Ok(Node::Leaf(block.slice_ref(self.data))),
        }
    }

    fn branch(self, ids: Vec<ContentId>) -> Result<Node, DagFault> {
        if self.kind != TYPE_FILE || !self.data.is_empty() {
            return Err(DagFault::Malformed("links and content in one node"));
        }
        if self.block_sizes.len() != ids.len() {
            return Err(DagFault::Malformed("not one size for each link"));
        }
        if self.block_sizes.contains(&0) {
            return Err(DagFault::Malformed("a link to nothing"));
        }
        let parts = self.block_sizes.iter().try_fold(0u64, |sum, size| sum.checked_add(*size));
        let size = self.file_size.ok_or(DagFault::Malformed("no file size"))?;
        match parts {
            Some(parts) if parts == size => {
                let children = ids.into_iter().zip(self.block_sizes).map(|(id, size)| Child { id, size }).collect();
                Ok(Node::Branch(Branch { size, children }))
            }
            parts => Err(DagFault::Sum { says: size, parts: parts.unwrap_or(u64::MAX) }),
        }
    }
}

/// The CID in a link. Name and cumulative size do not matter for a file.
fn link_id(link: &[u8], index: usize) -> Result<ContentId, DagFault> {
    let mut hash = None;
    let mut fields = Fields(link);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes(bytes)) if hash.is_none() => hash = Some(bytes),
            (2, Value::Bytes(_)) | (3, Value::Number(_)) => {}
            _ => return Err(DagFault::Malformed("a link that dag-pb does not have")),
        }
    }
    let hash = hash.ok_or(DagFault::Malformed("a link without a CID"))?;
    // CIDv0 is the bare multihash of a dag-pb node: it names the same block as its CIDv1.
    let id = match hash {
        [0x12, 0x20, digest @ ..] if digest.len() == 32 => Ok(ContentId { codec: ContentCodec::DagPb, digest: B256::from_slice(digest) }),
        _ => ContentId::from_bytes(hash),
    };
    id.map_err(|source| DagFault::Link { index, source })
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// What is left of a protobuf message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, DagFault> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.skip(8)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.skip(4)?,
            _ => return Err(DagFault::Malformed("a wire type that protobuf does not have")),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn skip(&mut self, length: u64) -> Result<Value<'a>, DagFault> {
        self.take(length).map(|_| Value::Fixed)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], DagFault> {
        let cut = usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length));
        let (taken, rest) = cut.ok_or(DagFault::Malformed("a field reaches beyond the end"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, DagFault> {
        let mut number = 0u64;
        for place in 0..10 {
            let (&byte, rest) = self.0.split_first().ok_or(DagFault::Malformed("a number reaches beyond the end"))?;
            self.0 = rest;
            if place == 9 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(DagFault::Malformed("a number of more than 64 bits"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::dag::FileBuilder;

    /// The top node of a file of two chunks.
    static TOP: LazyLock<Bytes> = LazyLock::new(|| {
        let mut builder = FileBuilder::new();
        builder.push(&vec![1; (1 << 20) + 7]).unwrap();
        let (blocks, top) = builder.finish().unwrap();
        let (id, block) = blocks.last().unwrap();
        assert_eq!(*id, top);
        block.clone()
    });

    #[test]
    fn a_node_of_our_own_is_read() {
        let Node::Branch(branch) = Node::parse(&TOP).unwrap() else { panic!("a branch") };
        let sizes: Vec<_> = branch.children.iter().map(|child| child.size).collect();
        assert_eq!((branch.size, sizes), ((1 << 20) + 7, vec![1 << 20, 7]));
    }

    #[test]
    fn a_node_cut_short_is_no_node() {
        let whole = &*TOP;
        for length in 0..whole.len() {
            assert!(Node::parse(&whole.slice(..length)).is_err(), "{length} of {}", whole.len());
        }
    }

    #[test]
    fn a_link_by_the_bare_hash_of_old_tools_is_the_same_link() {
        let digest = B256::repeat_byte(7);
        let v1 = ContentId { codec: ContentCodec::DagPb, digest };
        let link = |cid: &[u8]| [&[0x0a, cid.len() as u8], cid].concat();
        assert_eq!(link_id(&link(&v1.to_bytes()), 0).unwrap(), v1);
        assert_eq!(link_id(&link(&v1.to_bytes()[2..]), 0).unwrap(), v1);
        // blake3, identity, another version.
        for cid in [&[0x01, 0x55, 0x1e, 0x20][..], &[0x01, 0x55, 0x00, 0x01, 0x61], &[0x02, 0x55, 0x12, 0x20]] {
            assert!(matches!(link_id(&link(cid), 3), Err(DagFault::Link { index: 3, .. })));
        }
    }

    #[test]
    fn sizes_may_be_packed() {
        let id = ContentId { codec: ContentCodec::Raw, digest: B256::ZERO };
        let link = [&[0x12, 38, 0x0a, 36][..], &id.to_bytes()].concat();
        // File, 300 bytes, packed sizes 299 and 1.
        let unixfs = [0x08, 2, 0x18, 0xac, 0x02, 0x22, 3, 0xab, 0x02, 1];
        let block = [&link[..], &link, &[0x0a, unixfs.len() as u8], &unixfs].concat();
        let Node::Branch(branch) = Node::parse(&block.into()).unwrap() else { panic!("a branch") };
        assert_eq!(branch, Branch { size: 300, children: vec![Child { id, size: 299 }, Child { id, size: 1 }] });
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Node::parse(&bytes.into());
        }

        #[test]
        fn no_change_to_a_true_node_makes_it_panic_or_lie(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = TOP.to_vec();
            let place = place.index(bytes.len());
            bytes[place] = byte;
            if let Ok(Node::Branch(branch)) = Node::parse(&bytes.into()) {
                prop_assert_eq!(branch.children.iter().map(|child| child.size).sum::<u64>(), branch.size);
            }
        }
    }
}
