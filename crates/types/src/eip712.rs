//! EIP-712: the domain of our contracts and the word-by-word hashing of static structs.

use alloy_primitives::{Address, B256, U256, keccak256};
use serde::{Deserialize, Serialize};

/// The EIP-712 domain: name "Quern", version "1", a chain and the `JobMarket` on it. It binds job ids and receipts to one deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Domain {
    /// Chain id of the L2.
    pub chain_id: u64,
    /// Address of `JobMarket`.
    pub market: Address,
}

impl Domain {
    const TYPE: &str = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";

    /// The domain separator.
    pub fn separator(&self) -> B256 {
        Words::new(Self::TYPE).word(keccak256("Quern")).word(keccak256("1")).number(self.chain_id).address(self.market).hash()
    }

    /// The digest that is signed, or that names a job, for a struct hash.
    pub fn digest(&self, struct_hash: B256) -> B256 {
        let mut preimage = [0u8; 66];
        preimage[..2].copy_from_slice(&[0x19, 0x01]);
        preimage[2..34].copy_from_slice(self.separator().as_slice());
        preimage[34..].copy_from_slice(struct_hash.as_slice());
        keccak256(preimage)
    }
}

/// The preimage of a struct hash: the type hash and one word per static member.
pub(crate) struct Words(Vec<u8>);

impl Words {
    pub(crate) fn new(type_text: &str) -> Self {
        Self(keccak256(type_text).to_vec())
    }

    pub(crate) fn word(mut self, word: B256) -> Self {
        self.0.extend_from_slice(word.as_slice());
        self
    }

    pub(crate) fn number(self, value: impl Into<u128>) -> Self {
        self.word(U256::from(value.into()).into())
    }

    pub(crate) fn address(self, address: Address) -> Self {
        self.word(address.into_word())
    }

    pub(crate) fn hash(self) -> B256 {
        keccak256(self.0)
    }
}
