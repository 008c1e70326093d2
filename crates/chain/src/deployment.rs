//! Which contracts: the file that the deployment script wrote, and whether the chain holds the code that it names.

use std::path::{Path, PathBuf};

use alloy::primitives::{Address, B256};
use quern_bindings::MarketParameters;
use quern_types::Domain;
use serde::{Deserialize, Serialize};

use crate::{At, Client, Result, Severity, proof::code_hash};

/// A deployment that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    /// The file cannot be read.
    #[error("deployment file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file does not have the form that the deployment script writes.
    #[error("deployment file {}: {source}; it must be one that scripts/contracts-deploy wrote", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// There is no code at the address.
    #[error("{contract} is not at {address} on chain {chain_id}: wrong --rpc, wrong deployment file, or a devnet that was reset")]
    Absent {
        /// The contract.
        contract: &'static str,
        /// Where it should be.
        address: Address,
        /// The chain asked.
        chain_id: u64,
    },
    /// There is other code at the address.
    #[error("the code at {address} is not {contract} of this deployment: its hash is {actual}, the deployment file says {expected}")]
    OtherCode {
        /// The contract.
        contract: &'static str,
        /// Where it should be.
        address: Address,
        /// keccak of the code, by the file.
        expected: B256,
        /// keccak of the code, by the chain.
        actual: B256,
    },
    /// The client is connected to another chain.
    #[error("the deployment is on chain {expected}, but the client is configured for chain {actual}")]
    OtherChain {
        /// By the file.
        expected: u64,
        /// By the client.
        actual: u64,
    },
}

impl DeploymentError {
    /// Who must act.
    pub fn severity(&self) -> Severity {
        Severity::Fatal
    }
}

/// One contract of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Contract {
    /// Its address.
    pub address: Address,
    /// keccak of its code as it stands on the chain.
    pub code_hash: B256,
}

/// The contracts of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Contracts {
    /// The ERC-20 that money is counted in.
    pub quern_token: Contract,
    /// May stop entries, for a time.
    pub guardian: Contract,
    /// Models.
    pub model_registry: Contract,
    /// Jobs.
    pub job_market: Contract,
    /// Providers.
    pub provider_registry: Contract,
    /// Money.
    pub ledger: Contract,
}

/// What `deployments/<chain>.json` says and a program needs. The file also records how else the contracts were configured, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// Chain id of the L2.
    pub chain_id: u64,
    /// The newest block when the deployment began: no contract was there before it.
    pub from_block: u64,
    /// The contracts.
    pub contracts: Contracts,
    /// Whether the token is our `QuernToken`, deployed with the others, and not an ERC-20 that was there before.
    pub token_deployed: bool,
    /// Parameters of the market. They are in its code, and so in its code hash: who trusts this file need not believe a node about them.
    pub parameters: MarketParameters,
}

impl Deployment {
    /// Reads a deployment file.
    ///
    /// # Errors
    /// [`DeploymentError::Io`], [`DeploymentError::Form`].
    pub fn read(path: &Path) -> Result<Self, DeploymentError> {
        let text = std::fs::read_to_string(path).map_err(|source| DeploymentError::Io { path: path.into(), source })?;
        serde_json::from_str(&text).map_err(|source| DeploymentError::Form { path: path.into(), source })
    }

    /// Checks at the newest block that every contract is there with the code that the file names. Do it once at start.
    ///
    /// # Errors
    /// The first contract that is not; why the node did not answer.
    pub async fn verify(&self, client: &Client) -> Result<()> {
        if client.chain_id() != self.chain_id {
            return Err(DeploymentError::OtherChain { expected: self.chain_id, actual: client.chain_id() }.into());
        }
        for (contract, at) in self.named() {
            let Contract { address, code_hash: expected } = at;
            let code = client.code(address, At::Latest).await?;
            if code.is_empty() {
                return Err(DeploymentError::Absent { contract, address, chain_id: self.chain_id }.into());
            }
            let actual = code_hash(&code);
            if actual != expected {
                return Err(DeploymentError::OtherCode { contract, address, expected, actual }.into());
            }
        }
        Ok(())
    }

    /// The first block that can hold an event of ours; at least 1.
    pub fn first_block(&self) -> u64 {
        self.from_block.max(1)
    }

    /// Every contract with its name.
    pub fn named(&self) -> [(&'static str, Contract); 6] {
        let c = &self.contracts;
        [
            ("QuernToken", c.quern_token),
            ("Guardian", c.guardian),
            ("ModelRegistry", c.model_registry),
            ("JobMarket", c.job_market),
            ("ProviderRegistry", c.provider_registry),
            ("Ledger", c.ledger),
        ]
    }

    /// Addresses of the contracts whose events tell the whole story: all but the token, which may be any ERC-20 with any traffic.
    pub fn modules(&self) -> [Address; 5] {
        let c = &self.contracts;
        [c.guardian, c.model_registry, c.job_market, c.provider_registry, c.ledger].map(|contract| contract.address)
    }

    /// The EIP-712 domain of job ids and receipts.
    pub fn domain(&self) -> Domain {
        Domain { chain_id: self.chain_id, market: self.contracts.job_market.address }
    }
}
