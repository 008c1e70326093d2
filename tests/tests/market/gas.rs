//! Gas money runs out.

use quern_testkit::{Account, Actor, Devnet, DevnetOptions};
use serde_json::json;

#[test]
fn account_with_little_gas_money_is_told_once_and_its_command_is_done() {
    let devnet = Devnet::with_contracts(DevnetOptions::default()).unwrap();
    let actor = Actor::new("poor", devnet.account(0), &devnet, devnet.folder()).unwrap();
    let name_operator = |operator: Account| {
        let output = actor.command(&["provider", "operator", "set", operator.address, "--json"]).unwrap().output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "standard output holds the result and nothing else");
        said
    };
    assert_eq!(name_operator(devnet.account(1)), "");
    // 0.005 of the coin: less than the 0.01 that the sender warns at.
    devnet.rpc("anvil_setBalance", &json!([actor.address, "0x11c37937e08000"])).unwrap();
    let said = name_operator(devnet.account(2));
    assert_eq!(said.lines().count(), 1, "{said}");
    let warned =
        said.starts_with("warning: ") && said.contains(&actor.address) && said.contains("holds 0.005 ") && said.contains("send it more");
    assert!(warned, "{said}");
}
