//! `quern wallet`: the money of one account.

use clap::Subcommand;
use quern_bindings::abi::{Ledger, QuernToken};
use quern_chain::{
    At,
    keys::Key,
    sender::{Call, TxReceipt},
};
use quern_client::{Actor, Balances, Market};
use quern_types::{Address, Amount, B256, U256, keccak256};
use serde::Serialize;
use serde_json::json;

use crate::{
    app::Context,
    args,
    failure::Failure,
    output,
    session::{self, act, act_as, acting, finish_interrupted, in_tokens, receipt_json, receipt_text},
};

/// Seconds for which a signed permit is good: it is sent at once.
const PERMIT_SECS: u64 = 3_600;

/// Commands of `quern wallet`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "AMOUNT is in whole tokens with up to 18 decimals: 12.5",
    after_long_help = "Only money in the Ledger pays for jobs or can be staked: bring it there with `deposit`. Its buckets:
  free       to spend, stake or withdraw
  escrow     behind posted jobs
  stake      a provider's, behind no job
  lock       a provider's, behind claimed jobs
  unbonding  a provider's, on its way out
  bond       behind challenges

Examples:
  quern wallet balance
  quern wallet deposit 12.5
  quern wallet withdraw 3 --to 0x70997970C51812dc3A010C7d01b50e0d17dc79C8

JSON of deposit, withdraw and transfer: {\"amount\",\"to\",\"tx\",\"block\",\"gasUsed\",\"cost\"}; amounts are strings of the smallest unit, cost is in wei."
)]
pub enum Command {
    /// Show what an account has; needs no password
    #[command(
        after_long_help = "JSON: {\"address\",\"gas\",\"token\",\"free\",\"escrow\",\"stake\",\"unbonding\",\"lock\",\"bond\"}: decimal strings, gas in wei, \
        the rest in the token's smallest unit (10^-18). All are read from one block."
    )]
    Balance {
        /// The account; default: that of the configured key
        #[arg(value_parser = args::address)]
        address: Option<Address>,
    },
    /// Bring tokens into the Ledger, where they can pay for jobs
    Deposit {
        /// Whole tokens, such as 12.5
        #[arg(value_parser = args::tokens)]
        amount: Amount,
    },
    /// Take free money out of the Ledger
    Withdraw {
        /// Whole tokens, such as 12.5
        #[arg(value_parser = args::tokens)]
        amount: Amount,
        /// Who gets them; default: this account
        #[arg(long, value_name = "ADDRESS", value_parser = args::address)]
        to: Option<Address>,
    },
    /// Send tokens that are outside the Ledger to somebody
    Transfer {
        /// Who gets them
        #[arg(value_parser = args::address)]
        to: Address,
        /// Whole tokens, such as 12.5
        #[arg(value_parser = args::tokens)]
        amount: Amount,
    },
}

/// Runs `quern wallet`.
///
/// # Errors
/// No key, no node, too little money; what the contracts refuse.
pub async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Balance { address } => {
            let address = session::account(&context.config, address)?;
            let held = session::market(&context.config).await?.balances(address).await?;
            context.out.result(&balance_json(address, &held), || balance_text(address, &held))?;
        }
        Command::Deposit { amount } => {
            let market = session::market(&context.config).await?;
            let key = session::signer(&context.config)?;
            let actor = session::actor_of(&context.config, market, key.clone())?;
            let receipt = deposit(context, &actor, &key, amount).await?;
            done(context, &receipt, amount, actor.account(), "deposited")?;
        }
        Command::Withdraw { amount, to } => {
            let actor = acting(&context.config).await?;
            let to = to.unwrap_or_else(|| actor.account());
            let receipt = act(context, &actor, "the withdrawal", &actor.market().withdraw(to, amount)).await?;
            done(context, &receipt, amount, to, "withdrew")?;
        }
        Command::Transfer { to, amount } => {
            let actor = acting(&context.config).await?;
            check_recipient(actor.market(), to)?;
            let call = QuernToken::transferCall { to, value: amount.to_u256() };
            let call = Call::new(actor.market().deployment().contracts.quern_token.address, &call);
            let meaning = keccak256(&call.calldata);
            let receipt = match finish_interrupted(context, &actor, "the transfer", meaning).await? {
                Some(receipt) => receipt,
                None => {
                    require_tokens(actor.market(), actor.account(), amount).await?;
                    act_as(context, &actor, "the transfer", meaning, &call).await?
                }
            };
            done(context, &receipt, amount, to, "sent")?;
        }
    }
    Ok(())
}

fn done(context: &Context, receipt: &TxReceipt, amount: Amount, to: Address, verb: &str) -> Result<(), Failure> {
    let mut object = receipt_json(receipt);
    object["amount"] = json!(amount);
    object["to"] = json!(to);
    context.out.result(&object, || format!("{verb} {} to {to}: {}", in_tokens(amount), receipt_text(receipt)))
}

#[derive(Debug, Serialize)]
struct Shown {
    address: Address,
    gas: String,
    token: Amount,
    free: Amount,
    escrow: Amount,
    stake: Amount,
    unbonding: Amount,
    lock: Amount,
    bond: Amount,
}

fn balance_json(address: Address, held: &Balances) -> Shown {
    let Balances { token, free, escrow, stake, unbonding, lock, bond, gas } = *held;
    Shown { address, gas: gas.to_string(), token, free, escrow, stake, unbonding, lock, bond }
}

fn balance_text(address: Address, held: &Balances) -> String {
    let row = |name: &str, amount: Amount, what: &str| vec![name.to_owned(), amount.to_tokens(), what.to_owned()];
    let rows = [
        row("free", held.free, "in the Ledger, to spend, stake or withdraw"),
        row("escrow", held.escrow, "behind posted jobs"),
        row("stake", held.stake, "a provider's, behind no job"),
        row("lock", held.lock, "a provider's, behind claimed jobs"),
        row("unbonding", held.unbonding, "a provider's, on its way out"),
        row("bond", held.bond, "behind challenges"),
        row("token", held.token, "outside the Ledger"),
        vec!["gas".into(), coins(held.gas), "the chain's own coin".into()],
    ];
    let mut text = format!("{address}\n{}", output::table(&["", "tokens", ""], &rows).trim_start_matches('\n'));
    if held.escrow > Amount::ZERO {
        text.push_str("\nOf the escrow, `quern job list` shows what can be reclaimed now, and when the rest can.");
    }
    if held.unbonding > Amount::ZERO {
        text.push_str("\n`quern provider withdraw` takes what has unbonded.");
    }
    text
}

/// Wei as whole coins; all 18 decimals.
fn coins(wei: U256) -> String {
    Amount::try_from(wei).map_or_else(|_| format!("{wei} wei"), Amount::to_tokens)
}

/// A transfer there would be lost.
fn check_recipient(market: &Market, to: Address) -> Result<(), Failure> {
    let named = market.deployment().named();
    if let Some((name, _)) = named.iter().find(|(_, contract)| contract.address == to) {
        let remedy = "bring money into the Ledger with `quern wallet deposit AMOUNT`";
        return Err(Failure::new(format!("{to} is the contract {name}: tokens sent there belong to nobody"), remedy));
    }
    if to.is_zero() {
        return Err(Failure::usage("the zero address belongs to nobody", "name the address of a person or of a contract"));
    }
    Ok(())
}

/// Says who lacks how much, before a contract says that something reverts.
async fn require_tokens(market: &Market, account: Address, amount: Amount) -> anyhow::Result<()> {
    let held = market.balances(account).await?.token;
    match amount.checked_sub(held) {
        None | Some(Amount::ZERO) => Ok(()),
        Some(missing) => {
            let what = format!(
                "{account} holds {} outside the Ledger, and {} are needed: {} are missing",
                in_tokens(held),
                in_tokens(amount),
                in_tokens(missing)
            );
            let remedy = format!("have tokens sent to {account}, or take a smaller amount; `quern wallet balance` shows what there is");
            Err(Failure::new(what, remedy).into())
        }
    }
}

/// One transaction with a permit where the token takes one; else an approval of exactly this amount, then the deposit.
async fn deposit(context: &Context, actor: &Actor, key: &Key, amount: Amount) -> anyhow::Result<TxReceipt> {
    let (market, account) = (actor.market(), actor.account());
    // A permit is signed anew in each run: account and amount are what the runs have in common.
    let meaning = keccak256([account.as_slice(), &amount.to_u256().to_be_bytes::<32>()].concat());
    if let Some(receipt) = finish_interrupted(context, actor, "the deposit", meaning).await? {
        return Ok(receipt);
    }
    require_tokens(market, account, amount).await?;
    if market.allowance(account).await? < amount.to_u256() {
        match permit(market, key, amount).await? {
            Some(call) => return act_as(context, actor, "the deposit", meaning, &call).await,
            None => {
                let receipt = act(context, actor, "the approval", &market.approve(amount)).await?;
                context.out.note(&format!("approved {}: {}", in_tokens(amount), receipt_text(&receipt)));
            }
        }
    }
    act_as(context, actor, "the deposit", meaning, &market.deposit(account, amount)).await
}

/// The deposit with a signed permit (EIP-2612); `None` where the token knows none.
async fn permit(market: &Market, key: &Key, amount: Amount) -> anyhow::Result<Option<Call>> {
    use quern_chain::BlockSource as _;
    let (client, contracts) = (market.client(), &market.deployment().contracts);
    let (token, owner) = (contracts.quern_token.address, key.address());
    let domain = client.call(token, &QuernToken::DOMAIN_SEPARATORCall {}, At::Latest).await;
    let nonce = client.call(token, &QuernToken::noncesCall { owner }, At::Latest).await;
    let (domain, nonce) = match (domain, nonce) {
        (Ok(domain), Ok(nonce)) => (domain, nonce),
        // A token without permits has no such functions, or answers them with nothing.
        (Err(quern_chain::Error::Reverted { .. } | quern_chain::Error::Decode { .. }), _)
        | (_, Err(quern_chain::Error::Reverted { .. } | quern_chain::Error::Decode { .. })) => return Ok(None),
        (Err(error), _) | (_, Err(error)) => return Err(error.into()),
    };
    // The chain's clock: ours may be wrong.
    let deadline = client.heads().await?.latest.timestamp.saturating_add(PERMIT_SECS);
    let digest = permit_digest(domain, owner, contracts.ledger.address, amount, nonce, deadline);
    Ok(Some(with_permit(key, contracts.ledger.address, amount, deadline, digest)))
}

fn with_permit(key: &Key, ledger: Address, amount: Amount, deadline: u64, digest: B256) -> Call {
    let signature = key.sign_digest(digest);
    let call = Ledger::depositWithPermitCall {
        account: key.address(),
        amount: amount.units(),
        deadline: U256::from(deadline),
        v: signature[64],
        r: B256::from_slice(&signature[..32]),
        s: B256::from_slice(&signature[32..64]),
    };
    Call::new(ledger, &call)
}

/// EIP-2612, over EIP-712.
fn permit_digest(domain: B256, owner: Address, spender: Address, amount: Amount, nonce: U256, deadline: u64) -> B256 {
    let kind = keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
    let words = [kind, owner.into_word(), spender.into_word(), amount.to_u256().into(), nonce.into(), U256::from(deadline).into()];
    keccak256([b"\x19\x01".as_slice(), domain.as_slice(), keccak256(words.concat()).as_slice()].concat())
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::{SolStruct, eip712_domain, sol};

    use super::*;

    sol! {
        struct Permit { address owner; address spender; uint256 value; uint256 nonce; uint256 deadline; }
    }

    #[test]
    fn permit_digest_is_the_one_of_an_independent_eip712() {
        let domain = eip712_domain! { name: "Quern", version: "1", chain_id: 901, verifying_contract: Address::repeat_byte(3), };
        let permit = Permit {
            owner: Address::repeat_byte(1),
            spender: Address::repeat_byte(2),
            value: U256::from(5),
            nonce: U256::from(6),
            deadline: U256::from(7),
        };
        let ours = permit_digest(domain.separator(), permit.owner, permit.spender, Amount::from_units(5), permit.nonce, 7);
        assert_eq!(ours, permit.eip712_signing_hash(&domain));
    }

    #[test]
    fn balance_is_decimal_text_of_smallest_units() {
        let one = Amount::ONE_TOKEN;
        let held = Balances {
            token: one,
            free: Amount::from_units(u128::MAX),
            escrow: one,
            stake: one,
            unbonding: one,
            lock: one,
            bond: Amount::ZERO,
            gas: U256::MAX,
        };
        let object: serde_json::Value = serde_json::to_value(balance_json(Address::ZERO, &held)).expect("JSON");
        assert_eq!(object["free"], u128::MAX.to_string());
        assert_eq!(object["gas"], U256::MAX.to_string());
        assert_eq!(object["bond"], "0");
        assert!(balance_text(Address::ZERO, &held).contains("340282366920938463463.374607431768211455"));
    }
}
