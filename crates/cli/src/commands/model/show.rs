//! What a package is, for a person and for a program.

use quern_exact::header::{self, Header, flag};
use quern_model::Package;
use serde_json::{Value, json};

use crate::app::Context;

pub(super) const JSON: &str = "\
JSON: {\"package\":FOLDER,\"root\":HASH,\"header\":{...,\"words\":[40 numbers]},\"macsPerToken\":N,\"weightsBytes\":N,\
\"conversion\":what conversion.json holds: the roots of all tensors, the hashes of the source files, notes}";

pub(super) fn show(context: &Context, package: &Package) -> anyhow::Result<()> {
    let macs = package.header().macs_per_token()?;
    let object = json!({
        "package": package.path(),
        "root": package.root(),
        "header": header_json(package.header()),
        "macsPerToken": macs,
        "weightsBytes": package.weights_bytes(),
        "conversion": package.record(),
    });
    context.out.result(&object, || text(package, macs))?;
    Ok(())
}

fn text(package: &Package, macs: u64) -> String {
    let (header, record) = (package.header(), package.record());
    let mut lines = vec![
        ("package", package.path().display().to_string()),
        ("root", package.root().to_string()),
        ("weights root", format!("{:?}", record.weights_root)),
        ("tokenizer hash", format!("{:?}", record.tokenizer_hash)),
        ("model", format!("{}, profile q8a16", family(header.family))),
        ("layers", format!("{} of {} heads x {} dims, ffn {}", header.layers, header.heads, header.head_dim, header.ffn)),
        if package.is_decoder() {
            ("heads", format!("{} of queries over {} of keys and values; {}", header.heads, header.kv_heads, window(header.window)))
        } else {
            ("vector", format!("{} int16 (Q15), {}, unit length", header.dim, pooling(header.pooling)))
        },
        ("context", format!("{} tokens", header.context)),
        ("vocabulary", format!("{} ids", header.vocabulary)),
        ("constants", format!("E = {}, c = {} (Q24)", header.epsilon, header.score_scale)),
        ("flags", flags(header.flags)),
        ("weights", format!("{} tensors, {} bytes", record.tensors.len(), package.weights_bytes())),
        ("work", format!("{macs} multiply-adds per token")),
        ("converted by", record.tool.clone()),
    ];
    lines.extend(record.sources.iter().map(|source| ("from", format!("{} sha256 {}", source.file, source.sha256))));
    lines.extend(record.notes.iter().map(|note| ("note", note.clone())));
    lines.iter().map(|(name, value)| format!("{name:<15}{value}")).collect::<Vec<_>>().join("\n")
}

fn header_json(header: &Header) -> Value {
    json!({
        "profile": header.profile,
        "family": header.family,
        "vocabulary": header.vocabulary,
        "dim": header.dim,
        "layers": header.layers,
        "heads": header.heads,
        "kvHeads": header.kv_heads,
        "headDim": header.head_dim,
        "ffn": header.ffn,
        "context": header.context,
        "window": header.window,
        "epsilon": header.epsilon,
        "scoreScale": header.score_scale,
        "norm": header.norm,
        "activation": header.activation,
        "flags": header.flags,
        "pooling": header.pooling,
        "tokenTypes": header.token_types,
        "prefixId": id(header.prefix_id),
        "paddingId": id(header.padding_id),
        "stopIds": header.stop_ids.iter().copied().filter_map(id).collect::<Vec<_>>(),
        "rotaryDims": header.rotary_dims,
        "words": header.to_words().to_vec(),
    })
}

fn id(id: u32) -> Option<u32> {
    (id != header::NO_ID).then_some(id)
}

fn family(family: u32) -> &'static str {
    if family == header::FAMILY_ENCODER { "encoder (BERT)" } else { "decoder (Llama)" }
}

fn window(window: u32) -> String {
    if window == 0 { "a position sees all before it".to_owned() } else { format!("a position sees the last {window}") }
}

fn pooling(pooling: u32) -> &'static str {
    match pooling {
        header::POOLING_MEAN => "mean over positions",
        header::POOLING_FIRST => "first position",
        _ => "no pooling",
    }
}

fn flags(flags: u32) -> String {
    const NAMES: [(u32, &str); 8] = [
        (flag::GATED_FFN, "gated ffn"),
        (flag::QKV_BIAS, "bias on q, k, v"),
        (flag::OUTPUT_BIAS, "bias on output and ffn"),
        (flag::QK_NORM, "norm on q and k"),
        (flag::TIED_HEAD, "tied head"),
        (flag::POST_NORM, "norm after the residual"),
        (flag::CAUSAL, "causal"),
        (flag::LEARNED_POSITIONS, "learned positions"),
    ];
    let set: Vec<&str> = NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    set.join("; ")
}
