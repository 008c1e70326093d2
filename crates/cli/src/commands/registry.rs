//! `quern model register` and `quern model list`: models on the chain.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use quern_bindings::{Revert, abi::ModelRegistry};
use quern_chain::sender::Call;
use quern_client::{ClientError, Follower, Scope, publish_package};
use quern_commit::model::model_id;
use quern_model::Package;
use quern_types::{Address, ContentId, Head, ModelId, PackageRoot};
use serde::Serialize;
use serde_json::json;

use crate::{
    app::Context,
    failure::Failure,
    output,
    session::{self, receipt_json, receipt_text},
};

/// Arguments of `quern model register`.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "The package is verified, put into the store with everything it consists of, pinned, and named on the chain by the CID of its manifest: serve the \
store (`quern store serve`) so that others can fetch it. The model id is the hash of package, publisher and royalty: registering again does nothing.

Example:
  quern model register all-MiniLM-L6-v2.quern --name all-MiniLM-L6-v2 --royalty-bps 250

JSON: {\"modelId\",\"packageRoot\",\"publisher\",\"royaltyBps\",\"content\":CID,\"registered\":BOOL,\"tx\",\"block\",\"gasUsed\",\"cost\"}; registered is false, and what \
follows null, where it was registered before."
)]
pub struct RegisterArgs {
    /// Folder of the package, see `quern model import`
    package: PathBuf,
    /// The publisher's share of each fee, in 1/10,000
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u16>::new().range(0..=5_000))]
    royalty_bps: u16,
    /// What people call the model, 1 to 64 bytes; default: the folder's name
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Domains, comma-separated, up to 256 bytes
    #[arg(long, value_name = "TEXT", default_value = "")]
    tags: String,
}

/// Registers a model.
///
/// # Errors
/// A package that is not sound; what the registry refuses.
pub(super) async fn register(context: &Context, args: &RegisterArgs) -> anyhow::Result<()> {
    let package = Package::open(&args.package)?;
    let root = package.verify()?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => args.package.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned(),
    };
    if name.is_empty() || name.len() > 64 || args.tags.len() > 256 {
        return Err(Failure::usage("a name has 1 to 64 bytes, tags have at most 256", "choose others with --name and --tags").into());
    }
    let actor = session::acting(&context.config).await?;
    let id = model_id(root, actor.account(), args.royalty_bps);
    let content = session::content(&context.config, &[]).await?;
    let cid = publish_package(&*content.local, &args.package).await?;
    let (codec, digest) = cid.to_chain();
    let registration = ModelRegistry::registerCall {
        r: quern_bindings::abi::IModelRegistry::Registration {
            header: package.header().to_bytes().to_vec().into(),
            weightsRoot: package.record().weights_root,
            tokenizerHash: package.record().tokenizer_hash,
            royaltyBps: args.royalty_bps,
            packageCodec: codec,
            packageDigest: digest,
            name,
            tags: args.tags.clone(),
        },
    };
    let call = Call::new(actor.market().deployment().contracts.model_registry.address, &registration);
    let receipt = match actor.act("registering the model", &format!("model/{id}/register"), &call, Head::Latest).await {
        Ok(receipt) => Some(receipt),
        Err(ClientError::Refused { revert: Revert::ModelExists(_), .. }) => None,
        Err(error) => return Err(session::explain(error)),
    };
    let mut object = receipt.as_ref().map_or_else(|| json!({ "tx": null, "block": null, "gasUsed": null, "cost": null }), receipt_json);
    object["modelId"] = json!(id);
    object["packageRoot"] = json!(root);
    object["publisher"] = json!(actor.account());
    object["royaltyBps"] = json!(args.royalty_bps);
    object["content"] = json!(cid);
    object["registered"] = json!(receipt.is_some());
    context.out.result(&object, || {
        let how = receipt
            .as_ref()
            .map_or_else(|| "was registered before".to_owned(), |receipt| format!("is registered: {}", receipt_text(receipt)));
        format!("model {id}\n{how}\npackage {cid}: serve it with `quern store serve`")
    })?;
    Ok(())
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    model_id: ModelId,
    name: String,
    tags: String,
    kind: &'static str,
    publisher: Address,
    royalty_bps: u16,
    package_root: PackageRoot,
    content: Option<ContentId>,
    providers: usize,
}

/// What `quern model list --json` prints.
pub(super) const LIST_JSON: &str = "JSON, one object per model: {\"modelId\",\"name\",\"tags\",\"kind\":\"embed\"|\"generate\",\"publisher\",\"royaltyBps\",\"packageRoot\",\
\"content\":CID|null,\"providers\":N}. Names and tags are what publishers say; providers is how many list a price.";

/// Lists registered models.
///
/// # Errors
/// The node does not answer.
pub(super) async fn list(context: &Context) -> anyhow::Result<()> {
    let market = session::market(&context.config).await?;
    let mut follower = Follower::new(market.client().clone(), market.deployment(), Scope::None, session::stream_config())?;
    let facts = follower.catch_up().await?;
    let providers = facts.providers();
    let listed: Vec<Listed> = facts
        .models()
        .into_iter()
        .map(|(model_id, model)| Listed {
            model_id,
            // Free text of strangers must not steer a terminal.
            name: model.name.escape_debug().to_string(),
            tags: model.tags.escape_debug().to_string(),
            kind: if model.family == 1 { "embed" } else { "generate" },
            publisher: model.publisher,
            royalty_bps: model.royalty_bps,
            package_root: model.package,
            content: model.places.first().and_then(|&(codec, digest)| ContentId::from_chain(codec, digest).ok()),
            providers: providers.values().filter(|provider| provider.prices.contains_key(&model_id)).count(),
        })
        .collect();
    if context.out.json {
        for model in &listed {
            context.out.json_line(model)?;
        }
        return Ok(());
    }
    let row = |model: &Listed| {
        vec![
            model.model_id.to_string(),
            model.name.clone(),
            model.kind.to_owned(),
            format!("{} bps", model.royalty_bps),
            model.providers.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = listed.iter().map(row).collect();
    let text = if rows.is_empty() {
        "no model is registered yet: `quern model register PACKAGE`".into()
    } else {
        output::table(&["model", "name", "kind", "royalty", "providers"], &rows)
    };
    context.out.text(&text)?;
    Ok(())
}
