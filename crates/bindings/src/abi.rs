//! Generated from the committed ABIs by `sol!`: one module per contract.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

use alloy_sol_types::sol;

sol!(
    #[sol(all_derives)]
    JobMarket,
    "../../contracts/snapshots/abi/JobMarket.json"
);
sol!(
    #[sol(all_derives)]
    Ledger,
    "../../contracts/snapshots/abi/Ledger.json"
);
sol!(
    #[sol(all_derives)]
    ProviderRegistry,
    "../../contracts/snapshots/abi/ProviderRegistry.json"
);
sol!(
    #[sol(all_derives)]
    ModelRegistry,
    "../../contracts/snapshots/abi/ModelRegistry.json"
);
sol!(
    #[sol(all_derives)]
    Guardian,
    "../../contracts/snapshots/abi/Guardian.json"
);
sol!(
    #[sol(all_derives)]
    QuernToken,
    "../../contracts/snapshots/abi/QuernToken.json"
);
sol! {
    /// Predeploy of every OP Stack chain (OP Stack specification, "L1 fees"): what the L1 part of a transaction costs, in wei.
    #[derive(Debug)]
    interface GasPriceOracle {
        /// Exact before Fjord, an estimate since.
        function getL1Fee(bytes data) external view returns (uint256);
        /// Since Fjord: an upper bound from the size of the unsigned transaction.
        function getL1FeeUpperBound(uint256 unsignedTxSize) external view returns (uint256);
    }
}
